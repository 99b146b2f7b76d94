//! Do simulated pods stand as the tests think? Their addresses, users and files, and that nothing stays.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::pods::{As, Net};
use crate::support::process::Process;

#[test]
fn pods_reach_each_other_and_the_world_by_both_families() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let world = ["203.0.113.7:80", "[2001:db8::7]:80", "169.254.169.254:80"].map(|at| at.parse().unwrap());
    let _servers = (b.witness(As::Root, &b.at(8080)), net.world.witness(As::Root, &world));
    for (to, answer) in
        b.at(8080).iter().chain(&world).zip(a.ask(As::Application, &[&b.at(8080)[..], &world].concat()))
    {
        let from = if to.is_ipv4() { format!("{}:", a.v4) } else { format!("[{}]:", a.v6) };
        // Nothing redirects here, so there is no original destination.
        assert!(answer.starts_with(&format!("{to} - {from}")), "{to}: {answer}");
    }
    for answer in a.ask_udp(As::Application, &b.at(8080)) {
        assert!(answer.contains(" - "), "{answer}");
    }
}

#[test]
fn programs_run_as_whom_they_should_and_end_by_their_id() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    pod.resolve_by("nameserver 10.16.0.254\nsearch shop.svc.cluster.local\n");
    pod.hosts("10.16.0.2 orders.shop.svc.cluster.local\n");
    for (who, ids) in [
        (As::Root, "0:0"),
        (As::Sidecar, "16016:16016"),
        (As::Application, "1000:1000"),
        (As::Ids(7, 16016), "7:16016"),
    ] {
        let done = pod.run(
            who,
            "sh",
            &["-c", "echo $(id -u):$(id -g); grep CapEff /proc/self/status; cat /etc/hosts /etc/resolv.conf"],
        );
        assert!(done.stdout.starts_with(&format!("{ids}\n")), "{done:?}");
        assert_eq!(done.stdout.contains("CapEff:\t0000000000000000"), who != As::Root, "{done:?}");
        assert!(done.stdout.contains("10.16.0.2 orders.shop"), "{done:?}");
        assert!(done.stdout.ends_with("search shop.svc.cluster.local\n"), "{done:?}");
    }
    let mut sleep = Process::spawn("sleep", pod.command(As::Sidecar, "sleep").arg("60"));
    let comm = || fs::read_to_string(format!("/proc/{}/comm", sleep.id())).unwrap_or_default();
    crate::support::wait_until("the program itself", Duration::from_secs(5), || comm() == "sleep\n");
    sleep.terminate();
    assert!(!sleep.wait(Duration::from_secs(5)).success());
}

#[test]
fn nothing_stays_of_a_net_nor_of_one_whose_test_was_killed() {
    // The maker of this one is gone: no process has started 0 ticks after boot with this id.
    let stale = "countersign-test-4194303-0-0-1";
    assert!(Command::new("ip").args(["netns", "add", stale]).status().unwrap().success());
    let net = Net::with_pods(1);
    let listed =
        || fs::read_dir("/run/netns").unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    let ours = format!("countersign-test-{}-", std::process::id());
    let of_ours = || listed().iter().filter(|name| name.to_string_lossy().starts_with(&ours)).count();
    assert!(!listed().iter().any(|name| name == stale), "{:?}", listed());
    assert_eq!(of_ours(), 2, "{:?}", listed());
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _net = net;
        panic!("a test that fails");
    }));
    assert!(left.is_err());
    assert_eq!(of_ours(), 0, "{:?}", listed());
}
