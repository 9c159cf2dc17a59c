"""A page in headless Chromium, through the DevTools protocol, by the standard library alone.

Chromium talks over a WebSocket; the little of it that is needed (text frames, one connection) is
here, so that no driver and no package has to match the browser's version.
"""

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser():
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One Chromium with one tab, as a context manager."""

    def __init__(self, program):
        self._program = program

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--no-first-run", "--disable-extensions", "--disable-background-networking"]
        self._process = subprocess.Popen(
            [self._program, *flags, "--remote-debugging-port=0",
             f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port, path = self._address()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._shake_hands(port, path)
        self._count, self.events, self._session = 0, [], None
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(OSError):
            self._socket.close()
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    def _address(self):
        file = Path(self._profile.name) / "DevToolsActivePort"
        for _ in range(600):
            if file.is_file() and len(lines := file.read_text().split()) == 2:
                return int(lines[0]), lines[1]
            assert self._process.poll() is None, "the browser ended at once"
            time.sleep(0.1)
        raise TimeoutError("the browser did not start in a minute")

    def call(self, method, **parameters):
        """Send a command and wait for its result; events on the way are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def open(self, path, *, width, dark):
        """Load a file and wait until it has loaded; events of earlier pages are dropped."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.resize(width, 900)
        self.events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path, width):
        """The whole page as a PNG."""
        height = min(int(self.evaluate("document.documentElement.scrollHeight")), 16000)
        self.resize(width, height)
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))
        self.resize(width, 900)

    def complaints(self):
        """What the console and the log said."""
        said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in said]

    def requests(self):
        """What was asked for, but for the page itself and what it holds."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if not re.match("data:|file:.*[.]html$", url)]

    # -- WebSocket, RFC 6455 ---------------------------------------------------------------------

    def _shake_hands(self, port, path):
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket",
            "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._socket.recv(1)
        assert b" 101 " in answer.splitlines()[0], answer

    def _send(self, text):
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x81, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
        masked = bytes(byte ^ mask[k % 4] for k, byte in enumerate(data))
        self._socket.sendall(head + mask + masked)

    def _receive(self):
        text = b""
        while True:
            first, second = self._exactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self._exactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._exactly(8))
            text += self._exactly(size)
            if first & 0x80:
                return json.loads(text)

    def _exactly(self, size):
        parts = []
        while size:
            part = self._socket.recv(min(size, 1 << 20))
            assert part, "the browser has closed the connection"
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
