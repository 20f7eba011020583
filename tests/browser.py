"""A headless Chromium and the few words of its DevTools protocol that tests need.

Commands go through a pair of pipes (`--remote-debugging-pipe`: JSON between zero
bytes, from file descriptor 3, to 4), so that neither a port nor a library is needed.
https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Puts two pipes where Chromium looks for them, out of each other's way first.
LAUNCH = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 20) for n in sys.argv[1:3]]\n"
    "for end, place in zip(ends, (3, 4)):\n"
    "    os.dup2(end, place)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def find_chromium():
    """Returns the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab of a new headless Chromium; a context manager that ends it.

    Attributes:
        events: list of what the tab reported, each `{"method", "params"}`.
    """

    def __init__(self, profile):
        self.profile = profile
        self.events = []
        self._count = 0
        self._unread = b""
        self._session = None

    def __enter__(self):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out)),
                *(find_chromium(), *OPTIONS, f"--user-data-dir={self.profile}"),
                "about:blank",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        tab = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        try:
            self._session = None
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._in)
            os.close(self._out)

    def send(self, method, **params):
        """Sends a command and returns its result; events are kept meanwhile."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _read(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self._unread:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"no word from Chromium in {seconds} s")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise TimeoutError("Chromium ended")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(message)
        if "id" not in message:
            self.events.append(message)
        return message

    def open(self, path, *, width=1400, height=1000, dark=False):
        """Shows a file at a width in pixels, and waits until it is whole."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._read()
        # A picture is drawn some time after it was loaded; a broken one never.
        decoded = "[...document.images].map(image => image.decode())"
        self.run(f"Promise.allSettled({decoded})")

    def run(self, script):
        """Returns the value of a JavaScript expression; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        """Presses a key on what has the focus: "Enter" or "Tab"."""
        code = {"Enter": 13, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **text,
            )

    def screenshot(self, whole=True):
        """Returns the PNG of the page, or of what fits the window, as bytes."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def complaints(self):
        """Returns the console's messages, log entries and uncaught exceptions."""
        kinds = (
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Runtime.exceptionThrown",
        )
        return [e for e in self.events if e["method"] in kinds]

    def requests(self):
        """Returns the addresses asked for, without the page's own and its data."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        own = self.run("location.href")
        return [url for url in urls if not url.startswith("data:") and url != own]
