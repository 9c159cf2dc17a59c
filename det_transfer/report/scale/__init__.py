"""What a recipe costs on machines that are not at hand: arithmetic on counts and measured rates."""
