//! Do the pods of `deploy/local` do what the script says that one should try?

use std::process::Command;
use std::time::Duration;

use crate::support::pods::Net;
use crate::support::process::{Finished, run};
use crate::support::{binary, root};

/// The script's own pods, under a name that is removed if this test is killed.
struct Local {
    name: String,
    /// Nothing but the check that the machine's network stays as it is.
    _net: Net,
}

impl Local {
    fn up() -> Self {
        let net = Net::with_pods(0);
        let name = format!("{}-local", net.name());
        let local = Self { name, _net: net };
        let done = local.pods(&["up"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        local
    }

    fn pods(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(root().join("deploy/local/pods"));
        command.args(arguments).env("COUNTERSIGN_LOCAL", &self.name);
        command.env("COUNTERSIGN_BIN", binary("countersign-proxy").parent().expect("a folder"));
        run(&mut command, Duration::from_secs(60))
    }

    /// curl in a pod: the status, and what came.
    fn curl(&self, pod: &str, arguments: &[&str]) -> (String, String) {
        let curl = ["exec", pod, "curl", "-q", "-s", "-m", "10", "-w", "\n%{http_code}"];
        let done = self.pods(&[&curl[..], arguments].concat());
        let (body, status) = done.stdout.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), body.to_owned())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let done = self.pods(&["down"]);
        if !std::thread::panicking() {
            assert_eq!(done.code, Some(0), "{done:?}");
        }
    }
}

#[test]
fn a_name_that_would_remove_what_is_not_ours_is_refused() {
    let kept = tempfile::tempdir_in("/run").expect("/run can be written");
    let folder = kept.path().file_name().expect("a name").to_string_lossy().into_owned();
    for name in [&folder, "countersign-/..", "../run/countersign-a", "countersign-", "countersign-a b"] {
        let mut command = Command::new(root().join("deploy/local/pods"));
        let done = run(command.arg("down").env("COUNTERSIGN_LOCAL", name), Duration::from_secs(10));
        assert_eq!(done.code, Some(2), "{name}: {done:?}");
        assert!(done.stderr.contains("write countersign-NAME"), "{name}: {done:?}");
    }
    assert!(kept.path().exists());
}

#[test]
fn what_the_script_says_to_try_works() {
    let local = Local::up();
    for family in ["-4", "-6"] {
        let (status, seen) = local.curl("checkout", &[family, "http://orders.shop:8080/orders"]);
        assert_eq!(status, "200", "{family}: {seen}");
        assert!(seen.to_lowercase().contains("x-client-id: checkout"), "{seen}");
    }
    let orders = "http://orders.shop:8080/orders";
    for (pod, arguments, status) in [
        ("checkout", &["-X", "POST", orders][..], "403"),
        ("checkout", &["http://10.17.0.2:8080/orders"], "401"),
        ("orders", &[orders], "401"),
    ] {
        let (found, seen) = local.curl(pod, arguments);
        assert_eq!(found, status, "{pod} {arguments:?}: {seen}");
    }
    assert!(local.curl("checkout", &["http://127.0.0.1:16020/tokens"]).1.contains("orders"));
    assert!(local.pods(&["logs", "orders"]).stdout.contains("/orders"));
}
