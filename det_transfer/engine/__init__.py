"""The trainer and its hooks, for detection and classification alike.

``trainer``, ``hooks``, ``precision``, ``checkpoint`` and ``launch`` know nothing of detection;
``detection`` does.
"""
