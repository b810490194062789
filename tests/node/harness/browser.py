"""A headless Chromium in a network namespace, driven by the WebDriver protocol (chromium-driver), without a library for it."""

import base64
import http.client
import json
import socket
import time

from .process import Process, eventually

DRIVER_PORT = 9515


class Browser:
    """Use as a context. Everything that it fetches, it fetches in `netns`."""

    def __init__(self, netns, folder, size=(1280, 1600)):
        self.netns = netns
        self.driver = Process("chromedriver", ["chromedriver", f"--port={DRIVER_PORT}", "--log-level=SEVERE"], {"HOME": folder}, netns)
        eventually(lambda: DRIVER_PORT in netns.listening_ports(), "chromedriver")
        self.session = None
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                     "--no-first-run", f"--user-data-dir={folder}/chromium", f"--window-size={size[0]},{size[1]}"]
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments, "binary": "/usr/bin/chromium"},
            "goog:loggingPrefs": {"browser": "ALL"}}}})["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.session:
                self.call("DELETE", "")
        finally:
            self.driver.stop()

    def call(self, method, path, body=None):
        with self.netns.entered():
            sock = socket.create_connection(("127.0.0.1", DRIVER_PORT), timeout=60)
        connection = http.client.HTTPConnection("127.0.0.1", DRIVER_PORT, timeout=60)
        connection.sock = sock
        prefix = f"/session/{self.session}" if self.session else ""
        connection.request(method, prefix + path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        value = json.load(answer)["value"]
        connection.close()
        assert answer.status == 200, value
        return value

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, text, *arguments):
        return self.call("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def wait(self, condition, what, timeout=30):
        """Until the expression of JavaScript is true; its value."""
        deadline = time.monotonic() + timeout
        while True:
            value = self.script(f"return {condition}")
            if value:
                return value
            assert time.monotonic() < deadline, f"the page does not show {what}; it says:\n{self.script('return document.body.innerText')}"
            time.sleep(0.1)

    def console(self):
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))
