//! Headless Chromium, driven by its chromedriver over `WebDriver`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    find_program, is_installed,
    server_process::{TempDir, WAIT_TIMEOUT, free_address, wait_until},
    skip,
};

/// A browser with one page.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    /// Path of the `WebDriver` session.
    session: String,
    dir: TempDir,
}

impl Browser {
    /// Starts a browser. Skips the test and returns `None` where Chromium is missing.
    pub fn start(test: &str) -> Option<Self> {
        for program in ["chromium", "chromedriver"] {
            if !is_installed(program) {
                skip(program);
                return None;
            }
        }
        let dir = TempDir::new(&format!("browser-{test}"));
        let address = free_address();
        let log = File::create(dir.0.join("log")).unwrap();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={}", address.port()))
            .env("HOME", &dir.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut browser = Self {
            driver,
            address,
            session: String::new(),
            dir,
        };
        wait_until("chromedriver is ready", || {
            let status = browser.try_request("GET", "/status", &Value::Null)?;
            status["ready"].as_bool().filter(|ready| *ready)
        });
        let profile = browser.dir.0.join("profile");
        let profile = format!("--user-data-dir={}", profile.display());
        let created = browser.request(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "goog:chromeOptions": {
                    "binary": find_program("chromium").unwrap(),
                    // Tests run as root, and containers have little shared memory.
                    "args": [
                        "--headless=new",
                        "--no-sandbox",
                        "--disable-dev-shm-usage",
                        // The driver clicks at once after scrolling, which smooth scrolling would
                        // delay.
                        "--force-prefers-reduced-motion",
                        profile,
                    ],
                },
            }}}),
        );
        browser.session = format!("/session/{}", created["sessionId"].as_str().unwrap());
        // Debian's Chromium starts with a page from the network.
        browser.navigate("about:blank");
        browser.requested_urls();
        Some(browser)
    }

    /// Opens a page and waits until it is loaded.
    pub fn navigate(&self, url: &str) {
        self.session_request("POST", "/url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page and returns its result.
    pub fn execute(&self, script: &str) -> Value {
        self.session_request(
            "POST",
            "/execute/sync",
            &json!({"script": script, "args": []}),
        )
    }

    /// Presses a key on the focused element.
    pub fn press(&self, key: &str) {
        let actions = [("keyDown", key), ("keyUp", key)];
        let actions = actions.map(|(kind, key)| json!({"type": kind, "value": key}));
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.session_request("POST", "/actions", &json!({"actions": [keyboard]}));
    }

    /// Clicks in the middle of an element, as a user would.
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.session_request("POST", &format!("{element}/click"), &json!({}));
    }

    /// Screenshot of an element, in base64.
    pub fn element_screenshot(&self, selector: &str) -> String {
        let element = self.element(selector);
        let picture = self.session_request("GET", &format!("{element}/screenshot"), &Value::Null);
        picture.as_str().unwrap().to_owned()
    }

    /// Path of the first matching element.
    fn element(&self, selector: &str) -> String {
        let using = json!({"using": "css selector", "value": selector});
        let found = self.session_request("POST", "/element", &using);
        let id = found.as_object().and_then(|it| it.values().next());
        format!("/element/{}", id.and_then(Value::as_str).unwrap())
    }

    /// Sets size and colour scheme; a narrow viewport emulates a phone.
    pub fn set_viewport(&self, width: u32, height: u32, theme: &str) {
        let phone = width < 600;
        self.send_cdp_command(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}),
        );
        self.send_cdp_command(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": theme}]}),
        );
    }

    /// Sends a command of the Chrome `DevTools` protocol.
    pub fn send_cdp_command(&self, command: &str, parameters: &Value) -> Value {
        let command_json = json!({"cmd": command, "params": parameters});
        self.session_request("POST", "/goog/cdp/execute", &command_json)
    }

    /// Console errors of the pages since the last call.
    pub fn console_errors(&self) -> Vec<String> {
        let log = self.session_request("POST", "/se/log", &json!({"type": "browser"}));
        let log = log.as_array().unwrap();
        let all = log.iter().filter(|entry| entry["level"] != "INFO");
        all.map(|entry| entry["message"].to_string()).collect()
    }

    /// URLs that pages requested since the last call.
    pub fn requested_urls(&self) -> Vec<String> {
        let log = self.session_request("POST", "/se/log", &json!({"type": "performance"}));
        let mut urls = Vec::new();
        for entry in log.as_array().unwrap() {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let event = &event["message"];
            if event["method"] == "Network.requestWillBeSent" {
                let url = event["params"]["request"]["url"].as_str();
                urls.push(url.unwrap().to_owned());
            }
        }
        urls
    }

    fn session_request(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, &format!("{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let reply = self.try_request(method, path, body);
        let reply = reply.unwrap_or_else(|| panic!("{method} {path}: no response"));
        assert!(reply.get("error").is_none(), "{method} {path}: {reply}");
        reply
    }

    fn try_request(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let (port, len) = (self.address.port(), body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .ok()?;
        // The driver never closes the connection, whatever the request's header.
        let mut response = BufReader::new(stream);
        let mut len = 0;
        let mut line = String::new();
        while response.read_line(&mut line).ok()? > 2 {
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                len = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; len];
        response.read_exact(&mut body).ok()?;
        let mut reply: Value = serde_json::from_slice(&body).ok()?;
        Some(reply["value"].take())
    }

    /// Saves a screenshot of the visible part of the page.
    pub fn screenshot(&self, file: &Path) {
        self.save_screenshot(file, &json!({}));
    }

    /// Saves a screenshot of the whole page.
    pub fn full_page_screenshot(&self, file: &Path) {
        let size = "const it = document.documentElement;
            return {x: 0, y: 0, scale: 1, width: it.scrollWidth, height: it.scrollHeight}";
        let clip = self.execute(size);
        self.save_screenshot(file, &json!({"captureBeyondViewport": true, "clip": clip}));
    }

    fn save_screenshot(&self, file: &Path, options: &Value) {
        let picture = self.send_cdp_command("Page.captureScreenshot", options);
        let encoded = picture["data"].as_str().unwrap();
        std::fs::write(file, decode_base64(encoded)).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session makes the driver close the browser.
        if !self.session.is_empty() {
            let _gone = self.try_request("DELETE", &self.session.clone(), &Value::Null);
        }
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
    }
}

/// Decodes base64.
fn decode_base64(base64: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = base64.bytes().filter(|byte| *byte != b'=');
    let digits = digits.map(|byte| DIGITS.iter().position(|it| *it == byte).unwrap());
    let (mut bytes, mut bits, mut bit_count) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        (bits, bit_count) = ((bits << 6) | digit, bit_count + 6);
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push((bits >> bit_count).to_le_bytes()[0]);
            bits &= (1 << bit_count) - 1;
        }
    }
    bytes
}
