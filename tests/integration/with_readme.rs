//! Does what the README tells people to type work as it says? Its commands and policies are run as they stand there, on
//! free ports and in a folder of their own; each question is asked, and must be answered as the comment beside it says.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use countersign_policy::Reason;
use tempfile::TempDir;

use crate::readme;
use crate::support::ports::Port;
use crate::support::process::{Finished, run};
use crate::support::{binary, root, wait_until};

/// Every port in the README, in its commands and policies.
const PORTS: &[&str] =
    &["3000", "8080", "8081", "8082", "16001", "16020", "16030", "16040", "16443", "16444"];

#[test]
fn two_files_and_two_commands_put_a_sidecar_before_any_server() {
    let place = Place::new();
    let _surroundings = place.surroundings();
    let standalone = place.start("standalone", &["8081"]);
    assert!(standalone.stdout().contains("no problems"), "{}", standalone.stdout());
    place.ask("standalone, questions");
    place.explains_a_refusal();

    let outbound = place.start("outbound", &["16001", "16030"]);
    place.ask("outbound, questions");
    for script in [&standalone, &outbound] {
        assert!(!(script.stdout() + &script.stderr()).contains("checkout-secret"), "a secret is in the log");
    }
}

#[test]
fn a_refusal_is_explained_before_anything_runs() {
    let place = Place::new();
    let explained = place.bash(&readme::commands("explain"));
    assert_eq!((explained.code, explained.stderr.as_str()), (Some(1), ""), "{explained:?}");
    assert_eq!(explained.stdout, place.on_free_ports(&readme::output("explain")));
}

#[test]
fn a_sidecar_joins_the_control_plane() {
    let place = Place::new();
    let _surroundings = place.surroundings();
    let _control = place.start("control", &["16443", "16444", "16040", "8082"]);
    let ready = format!("curl -sf http://127.0.0.1:{}/readyz", place.port("16040"));
    wait_until("readiness", Duration::from_secs(20), || place.bash(&ready).code == Some(0));
    let questions = readme::commands("standalone, questions").replace("8081", "8082");
    place.ask_all(&questions);
    let workloads = place.bash(&format!("curl -sf http://127.0.0.1:{}/v1/workloads", place.port("16444")));
    assert!(
        workloads.stdout.contains("orders") && workloads.stdout.contains("applied"),
        "{}",
        workloads.stdout
    );
}

/// Where the commands run: a folder with the example policies, and free ports instead of the README's.
struct Place {
    folder: TempDir,
    ports: Vec<(&'static str, Port)>,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            ports: PORTS.iter().map(|&written| (written, Port::lease())).collect(),
        };
        let examples = place.path("deploy/examples/standalone");
        fs::create_dir_all(&examples).expect("the folder can be written");
        for name in ["issuer.yaml", "orders.yaml", "checkout.yaml"] {
            let from = root().join("deploy/examples/standalone").join(name);
            let text = fs::read_to_string(&from).expect("an example");
            fs::write(examples.join(name), place.on_free_ports(&text)).expect("the folder can be written");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn port(&self, written: &str) -> u16 {
        self.ports.iter().find(|(known, _)| *known == written).expect("a port of the README").1.number()
    }

    /// The text with other ports: of each number, digit by digit, those that the README uses.
    fn on_free_ports(&self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let digits = rest.get(start..).unwrap_or_default();
            let end = start + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            let number = rest.get(start..end).unwrap_or_default();
            result.push_str(rest.get(..start).unwrap_or_default());
            match self.ports.iter().find(|(written, _)| *written == number) {
                Some((_, port)) => result.push_str(&port.number().to_string()),
                None => result.push_str(number),
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        result + rest
    }

    /// The HTTP server and the issuer. What `npm` installs is there already.
    fn surroundings(&self) -> Script {
        let block = readme::commands("standalone, surroundings");
        let block: Vec<_> = block.lines().filter(|line| !line.starts_with("npm ")).collect();
        let block =
            block.join("\n").replace("tests/servers", &root().join("tests/servers").to_string_lossy());
        let script = Script::start(self, &format!("{block}\nwait"));
        self.await_ports(&script, &["3000", "8080"]);
        script
    }

    /// Runs a block whose last command serves, until these ports answer.
    fn start(&self, name: &str, ports: &[&'static str]) -> Script {
        let script = Script::start(self, &readme::commands(name));
        self.await_ports(&script, ports);
        script
    }

    fn await_ports(&self, script: &Script, ports: &[&'static str]) {
        for written in ports {
            let address = ("127.0.0.1", self.port(written));
            wait_until(&format!("port {written} of the README"), Duration::from_secs(30), || {
                let answers = TcpStream::connect(address).is_ok();
                assert!(answers || script.is_running(), "{}{}", script.stdout(), script.stderr());
                answers
            });
        }
    }

    fn ask(&self, name: &str) {
        self.ask_all(&readme::commands(name));
    }

    fn explains_a_refusal(&self) {
        let questions = readme::commands("standalone, questions");
        let (functions, _) = questions.split_once("\n}\n").expect("a function");
        let explained = self.bash(&format!("{functions}\n}}\n{}", readme::commands("explain, a refusal")));
        assert_eq!(explained.code, Some(0), "{explained:?}");
        assert!(
            explained.stdout.starts_with("decision ")
                && explained.stdout.contains("\n    from.scopes: expected orders:write, found orders:read\n"),
            "{explained:?}"
        );
    }

    /// Every `curl` of the block, with the functions before it. `curl -i … # STATUS REASON` is an assertion.
    fn ask_all(&self, block: &str) {
        let (functions, questions) = block.rsplit_once("\n}\n").unwrap_or(("", block));
        let functions = if functions.is_empty() { String::new() } else { format!("{functions}\n}}\n") };
        let mut asked = 0;
        for (command, comment) in questions.lines().filter_map(|line| line.split_once(" # ")) {
            let answer = self.bash(&format!("{functions}{}", command.replacen("curl ", "curl -sS ", 1)));
            assert_eq!(answer.code, Some(0), "{command}: {}", answer.stderr);
            assert!(!answer.stdout.contains("eyJ"), "a token is shown: {}", answer.stdout);
            let mut words = comment.split([' ', ':']);
            if let Some(status) = words.next().filter(|word| word.parse::<u16>().is_ok()) {
                let first = answer.stdout.lines().next().unwrap_or_default();
                assert!(
                    first.starts_with("HTTP/1.1 ") && first.contains(status),
                    "{command}: {}",
                    answer.stdout
                );
                let reason =
                    words.next().and_then(|word| Reason::ALL.iter().find(|reason| reason.as_str() == word));
                let header = reason.map(|reason| format!("x-countersign-reason: {reason}\r\n"));
                assert!(
                    header.is_none_or(|header| answer.stdout.contains(&header)),
                    "{command}: {}",
                    answer.stdout
                );
            }
            asked += 1;
        }
        assert!(asked > 1, "no questions in {block}");
    }

    fn bash(&self, script: &str) -> Finished {
        run(&mut self.command(script), Duration::from_secs(30))
    }

    /// bash in the folder, with our programs in the path and the default ports moved as the others.
    fn command(&self, script: &str) -> Command {
        let programs = binary("countersign-proxy");
        let programs = programs.parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let is_control = script.contains("countersign-control serve");
        let admin = self.port(if is_control { "16444" } else { "16020" });
        let mut command = Command::new("bash");
        command.args(["-euc", &self.on_free_ports(script)]).current_dir(self.folder.path());
        command.env("PATH", format!("{programs}:{path}")).env("NODE_NO_WARNINGS", "1");
        command.env("COUNTERSIGN_ADMIN", format!("127.0.0.1:{admin}"));
        command.env("COUNTERSIGN_LISTEN", format!("127.0.0.1:{}", self.port("16443")));
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }
}

/// A block that runs, with all that it started. Ended together.
struct Script {
    child: std::sync::Mutex<Child>,
    output: TempDir,
}

impl Script {
    fn start(place: &Place, text: &str) -> Self {
        let output = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| File::create(output.path().join(name)).expect("an output file");
        let mut command = place.command(text);
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).process_group(0);
        let child = command.spawn().expect("bash starts");
        Self { child: child.into(), output }
    }

    fn is_running(&self) -> bool {
        self.child.lock().is_ok_and(|mut child| matches!(child.try_wait(), Ok(None)))
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.output.path().join("stdout")).unwrap_or_default()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.output.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let Ok(child) = self.child.get_mut() else { return };
        let group = format!("-{}", child.id());
        // Gone already is fine.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = child.wait();
    }
}
