//! A headless browser, driven over WebDriver. Tests see a page as a person does.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::Engine as _;
use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

use super::{PATIENCE, eventually, fresh_key};

pub(crate) struct Browser {
    driver: Child,
    agent: Agent,
    /// The URL of the WebDriver session. Commands are sent below it.
    session: String,
    profile: PathBuf,
}

/// A program on the path.
fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").expect("PATH is set");
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file()).unwrap_or_else(|| {
        panic!(
            "missing: {name}, which the tests of pages need; `cargo xtask test` installs it, or install the packages \
             `chromium` and `chromium-driver` (Debian's names)"
        )
    })
}

fn value(response: Result<Response<Body>, ureq::Error>) -> Value {
    let mut response = response.expect("the driver answers");
    let text = response.body_mut().read_to_string().expect("the driver sends text");
    assert!(response.status().is_success(), "the browser refused a command: {text}");
    let mut answer: Value = serde_json::from_str(&text).expect("the driver sends JSON");
    answer["value"].take()
}

impl Browser {
    pub(crate) fn start() -> Self {
        let browser = program("chromium");
        // The driver gets its own process group, and the browser joins it, so that one signal ends both.
        let mut driver = Command::new(program("chromedriver"))
            .arg("--port=0")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        let profile = env::temp_dir().join(format!("browser-{}", fresh_key()));
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        // From here on, `drop` stops the driver if anything fails.
        let mut this = Self { driver, agent, session: String::new(), profile };
        let url = format!("http://127.0.0.1:{}/session", port.expect("chromedriver prints its port"));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,1400",
            &format!("--user-data-dir={}", this.profile.display()),
        ];
        let options = json!({ "binary": browser, "args": arguments });
        let capabilities = json!({ "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } });
        let session = value(this.agent.post(&url).send(json!({ "capabilities": capabilities }).to_string()));
        this.session = format!("{url}/{}", session["sessionId"].as_str().expect("a session has an id"));
        this
    }

    fn post(&self, command: &str, parameters: &Value) -> Value {
        value(self.agent.post(format!("{}/{command}", self.session)).send(parameters.to_string()))
    }

    fn get(&self, command: &str) -> Value {
        value(self.agent.get(format!("{}/{command}", self.session)).call())
    }

    /// Goes to a page, and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        format!("element/{}", id.expect("an element has an id"))
    }

    pub(crate) fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), &json!({}));
    }

    /// Types into a field.
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        self.post(&format!("{}/value", self.element(selector)), &json!({ "text": text }));
    }

    /// The visible text of an element.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.get(&format!("{}/text", self.element(selector)));
        text.as_str().expect("text").to_owned()
    }

    /// Runs `script` as the body of a function, and returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an element matches `selector`; fails the test after [`PATIENCE`].
    #[track_caller]
    pub(crate) fn wait_for(&self, selector: &str) {
        let script = format!("return document.querySelector({}) !== null", json!(selector));
        eventually(selector, || if self.run(&script) == true { Ok(()) } else { Err("not there") });
    }

    /// Writes a picture of the page to `file`. It must not panic, because it is called while a test fails.
    fn screenshot(&self, file: &Path) -> Option<()> {
        let mut response = self.agent.get(format!("{}/screenshot", self.session)).call().ok()?;
        let answer: Value = serde_json::from_str(&response.body_mut().read_to_string().ok()?).ok()?;
        let picture = base64::engine::general_purpose::STANDARD.decode(answer["value"].as_str()?).ok()?;
        fs::write(file, picture).ok()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            if std::thread::panicking() {
                let file = self.profile.with_extension("png");
                if self.screenshot(&file).is_some() {
                    eprintln!("a picture of the page: {}", file.display());
                }
            }
            // Ends the session, so that the browser removes its temporary files.
            let _ = self.agent.delete(&self.session).config().timeout_global(Some(PATIENCE)).build().call();
        }
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}
