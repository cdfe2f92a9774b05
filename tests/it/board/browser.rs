//! Chromium without a window, spoken to over a pipe in its DevTools protocol: what a page looks like, and what it complains about.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};

/// What was seen.
pub struct Look {
    /// The text of the page.
    pub text: String,
    /// How many pixels of it lie beyond the right edge.
    pub overflow: f64,
    /// What the console and the policy complained about.
    pub complaints: Vec<String>,
    /// The page's background.
    pub ground: String,
    /// A PNG.
    pub picture: Vec<u8>,
}

/// The browser. It ends with this.
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    number: u64,
    complaints: Vec<String>,
    loaded: bool,
    _home: tempfile::TempDir,
}

impl Browser {
    /// Starts it.
    pub fn start() -> Browser {
        let home = tempfile::tempdir().expect("a directory");
        // It reads commands from descriptor 3 and answers on 4; the shell makes them of its stdin and stdout.
        let line = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                    --user-data-dir=\"$0\" --remote-debugging-pipe about:blank 3<&0 4>&1 1>/dev/null 2>/dev/null";
        let mut process = Command::new("sh")
            .args(["-c", line])
            .arg(home.path())
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromium starts; scripts/setup.sh installs it");
        let (to, from) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let from = BufReader::new(from);
        Browser { process, to, from, number: 0, complaints: Vec::new(), loaded: false, _home: home }
    }

    /// Opens the page in a window of this width, scripts switched off, and looks at it.
    pub fn look(&mut self, url: &str, width: u32, dark: bool) -> Look {
        let target = self.ask(None, "Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.ask(None, "Target.attachToTarget", attach)["sessionId"].clone();
        let page = Some(&session);
        for domain in ["Page.enable", "Log.enable", "Runtime.enable", "DOM.enable", "CSS.enable"] {
            self.ask(page, domain, json!({}));
        }
        self.ask(page, "Emulation.setScriptExecutionDisabled", json!({"value": true}));
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask(page, "Emulation.setEmulatedMedia", media);
        let device = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.ask(page, "Emulation.setDeviceMetricsOverride", device);
        (self.loaded, self.complaints) = (false, Vec::new());
        self.ask(page, "Page.navigate", json!({"url": url}));
        while !self.loaded {
            let event = self.read();
            self.note(&event);
        }
        let metrics = self.ask(page, "Page.getLayoutMetrics", json!({}));
        let root = self.ask(page, "DOM.getDocument", json!({}));
        let find = json!({"nodeId": root["root"]["nodeId"], "selector": "body"});
        let body = self.ask(page, "DOM.querySelector", find)["nodeId"].clone();
        let html = self.ask(page, "DOM.getOuterHTML", json!({"nodeId": body}))["outerHTML"].clone();
        let style = self.ask(page, "CSS.getComputedStyleForNode", json!({"nodeId": body}));
        let style = style["computedStyle"].as_array().cloned().unwrap_or_default();
        let ground = style.iter().find(|property| property["name"] == "background-color");
        let shot = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.ask(page, "Page.captureScreenshot", shot);
        let picture = picture["data"].as_str().expect("a picture");
        self.ask(None, "Target.closeTarget", json!({"targetId": target["targetId"]}));
        let size = |name: &str, part: &str| metrics[name][part].as_f64().expect("a number");
        Look {
            text: text_of(html.as_str().expect("HTML")),
            overflow: size("cssContentSize", "width") - f64::from(width),
            complaints: std::mem::take(&mut self.complaints),
            ground: ground.and_then(|property| property["value"].as_str()).unwrap_or_default().to_owned(),
            picture: base64::engine::general_purpose::STANDARD.decode(picture).expect("base64"),
        }
    }

    /// Sends a command and waits for its answer.
    fn ask(&mut self, session: Option<&Value>, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.clone();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).and_then(|()| self.to.flush()).expect("chromium listens");
        loop {
            let answer = self.read();
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        match event["method"].as_str() {
            Some("Page.loadEventFired") => self.loaded = true,
            Some("Log.entryAdded") => self.complaints.push(event["params"]["entry"].to_string()),
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown") => {
                self.complaints.push(event["params"].to_string());
            }
            _ => {}
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).expect("chromium answers");
        assert_eq!(bytes.pop(), Some(0), "chromium has ended; scripts/setup.sh installs it");
        serde_json::from_slice(&bytes).expect("JSON")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is between the tags.
fn text_of(html: &str) -> String {
    html.split('<')
        .filter_map(|part| part.split_once('>'))
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(" ")
}
