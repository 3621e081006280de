"""A headless browser, driven over a pipe with the Chrome DevTools protocol."""
import base64
import json
import os
import select
import shutil
import subprocess
import time

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-extensions",
         "--window-size=1600,1400", "--remote-debugging-pipe")


class Browser:
    """One page of a browser.

    ``problems`` collects what it writes to its console as errors, and what it throws; ``requests`` the addresses it
    loads.
    """

    def __init__(self, program: str, folder, *flags: str, timeout: float = 120):
        self.timeout, self.count, self.buffer = timeout, 0, b""
        self.problems, self.requests, self.session = [], [], None
        commands, self.send_to = os.pipe()
        self.receive_from, answers = os.pipe()
        line = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'        # the browser reads from 3 and writes to 4
        self.log = open(folder / "browser.log", "wb")      # noqa: SIM115, closed with the browser
        arguments = [program, *FLAGS, *flags, f"--user-data-dir={folder}/profile"]
        self.process = subprocess.Popen(["bash", "-c", line, *arguments],
                                        pass_fds=(commands, answers), stdout=self.log, stderr=self.log)
        os.close(commands)
        os.close(answers)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while True:
            answer = self._receive(end)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float) -> dict:
        while b"\0" not in self.buffer:
            if not select.select([self.receive_from], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self.receive_from, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser ended")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(str([item.get("value", item.get("description")) for item in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def run(self, code: str):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "error"))
        return answer["result"].get("value")

    def open(self, path) -> None:
        """Open a file and wait until it has been read and its scripts have started."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for(f"location.href === {path.resolve().as_uri()!r} && document.readyState === 'complete'")

    def wait_for(self, code: str):
        """The value of ``code`` once it is true."""
        end = time.monotonic() + self.timeout
        while not (value := self.run(code)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true in {self.timeout:g} s: {code}")
            time.sleep(0.1)
        return value

    def screenshot(self, path) -> None:
        height = self.run("document.documentElement.scrollHeight")
        clip = dict(x=0, y=0, width=1600, height=height, scale=1)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", clip=clip,
                                                    captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.send_to)
        os.close(self.receive_from)
        self.log.close()


@pytest.fixture
def open_browser(tmp_path):
    """A function that starts a browser with extra flags; skips where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    started = []

    def start(*flags):
        folder = tmp_path / f"browser-{len(started)}"
        folder.mkdir()
        started.append(Browser(program, folder, *flags))
        return started[-1]

    yield start
    for browser in started:
        browser.close()
