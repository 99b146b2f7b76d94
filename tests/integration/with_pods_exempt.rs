//! Whose connections does the redirect leave alone? Those of the sidecar, whoever it is: `init` and `run` are told the same, in
//! simulated pods.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::init::Programs;
use crate::support::meshed::curl;
use crate::support::pods::{As, Net, Pod, open_to_all};
use crate::support::process::{Process, run};
use crate::support::wait_until;

const OTHER: [&str; 2] = ["--uid=20000", "--gid=20000"];
const LIMIT: Duration = Duration::from_secs(20);

fn sidecar(pod: &Pod, who: As, policies: &Path, flags: &[&str]) -> Command {
    let mut command = pod.own(who, "countersign-proxy");
    command.args(["run", "--transparent", "--policies"]).arg(policies).args(flags);
    command
}

/// Whom the rules exempt and as whom the sidecar runs are two things. Where they differ, every connection of its own would come
/// back to it.
#[test]
fn a_sidecar_that_the_rules_do_not_know_does_not_start() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    let (usual, other, group) = (As::Sidecar, As::Ids(20000, 20000), As::Ids(1000, 20000));
    for (rules, who, flags, expected) in [
        // Of another number than it was told itself, though the rules would let it pass.
        (
            &OTHER[..],
            other,
            &[][..],
            "this is user 20000 and group 20000, neither user 16016 nor group 16016",
        ),
        (&[], usual, &OTHER, "neither user 20000 nor group 20000"),
        // Of the number that it was told, and the rules of another.
        (&OTHER, usual, &[], "leads our own connections back to us"),
        (&[], other, &OTHER, "leads our own connections back to us"),
        (&["--uid=20000"], As::Ids(1000, 1000), &["--uid=1000"], "leads our own connections back to us"),
        // One that is let pass by its group is left alone, and goes on to what else is wrong.
        (&OTHER, group, &["--gid=20000", "--state-dir=/proc/none"], "--state-dir: "),
    ] {
        Programs::nft().install(pod, rules);
        let done = run(&mut sidecar(pod, who, folder.path(), flags), LIMIT);
        assert_eq!(done.code, Some(2), "{rules:?} {who:?} {flags:?}: {done:?}");
        assert!(done.stderr.contains(expected), "{rules:?} {who:?} {flags:?}: {done:?}");
    }
}

#[test]
fn timed_another_user_is_left_alone_where_both_are_told_and_says_so_when_the_rules_change() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    let _server = b.witness(As::Root, &b.at(7000));
    let init = Programs::nft();
    init.install(a, &OTHER);
    let mut command = sidecar(a, As::Ids(20000, 20000), folder.path(), &["--inbound-default=pass"]);
    // As one ConfigMap would tell both containers.
    command.env("COUNTERSIGN_UID", "20000").env("COUNTERSIGN_GID", "20000");
    let sidecar = Process::spawn("countersign-proxy", &mut command);
    let ready = || curl(a, &["http://127.0.0.1:16020/readyz"]).1;
    wait_until("a sidecar", LIMIT, || ready().ends_with("ready\n"));
    let answers = a.ask(As::Application, &b.at(7000));
    assert!(answers.iter().all(|answer| !answer.contains("error")), "{answers:?}");
    let bypassed = || {
        let page = curl(a, &["http://127.0.0.1:16020/metrics"]).1;
        page.contains("countersign_outbound_bypassed_total{reason=\"no_rule\"} 2")
    };
    assert!(bypassed(), "each went through the sidecar once: {}", sidecar.stderr());

    init.install(a, &[]);
    wait_until("it to see that it is not known", LIMIT, || ready().ends_with("not ready: redirect\n"));
    assert!(sidecar.stderr().contains("leads our own connections back to us"), "{}", sidecar.stderr());
    // The same where nothing is redirected on its way in, so that its own addresses tell nothing.
    init.install(a, &["--exclude-inbound-ports=1-65535"]);
    wait_until("it to see that it is not known", LIMIT, || ready().ends_with("not ready: redirect\n"));
    std::thread::sleep(Duration::from_secs(12));
    assert!(ready().ends_with("not ready: redirect\n"), "{}", sidecar.stderr());
    let refused = a.ask(As::Application, &b.at(7000));
    assert!(refused.iter().all(|answer| answer.contains("error")), "{refused:?}");
    init.install(a, &OTHER);
    wait_until("it to be left alone again", LIMIT, || ready().ends_with("\nready\n"));
    assert!(bypassed(), "none of its own came back: {}", sidecar.stderr());
}
