//! Does a WebSocket behave through the sidecar as it does without? What Autobahn tests in essence, frame by frame: PyPI `websockets`
//! against itself and against npm `ws`, direct, inbound and outbound.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::policy::open_policy;
use crate::support::process::run;
use crate::support::proxy::Settings;
use crate::support::tools;
use crate::support::wait_until;
use crate::support::ws::{Peer, Server};

/// All cases, as the client tells them.
fn cases(url: &str, dial: Option<&str>, deflate: bool) -> Vec<Value> {
    let mut command = tools::python("ws_peer.py");
    command.args(["cases", url]);
    if let Some(dial) = dial {
        command.args(["--dial", dial]);
    }
    if deflate {
        command.arg("--deflate");
    }
    let done = run(&mut command, Duration::from_secs(180));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The code that the server has heard last in each case, by its target, once all of them have ended beyond the first so many. They
/// may end there in another order than at the client, which goes on when it hears the end.
fn closes(server: &Peer, before: usize, count: usize) -> HashMap<String, Value> {
    wait_until("the end of all", Duration::from_secs(20), || server.seen("close").len() >= before + count);
    let seen = server.seen("close").split_off(before);
    let target = |seen: &Value| seen["target"].as_str().expect("a target").to_owned();
    let codes: HashMap<_, _> = seen.iter().map(|seen| (target(seen), seen["code"].clone())).collect();
    assert_eq!((seen.len(), codes.len()), (count, count), "one for each case: {codes:?}");
    codes
}

/// The codes of what was heard: what ends in a fault is said in each server's words, and in the sidecar's.
fn codes(heard: &Value) -> Vec<Value> {
    let heard = heard.as_array().expect("what was heard");
    heard.iter().map(|heard| heard.get(1).unwrap_or(heard).clone()).collect()
}

fn assert_as_direct(server: &Server, deflate: bool, least: usize) {
    let folder = open_policy();
    let proxy = Settings::policies(folder.path(), "orders").before(server.address()).start();
    let url = format!("ws://{}", server.address());
    let direct = cases(&url, None, deflate);
    let orderly = direct.iter().filter(|case| case["odd"] == false).count();
    assert!(direct.len() >= least && orderly * 3 > direct.len(), "{} cases", direct.len());
    let failed: Vec<_> = direct.iter().filter(|case| case["ok"] != true).collect();
    assert!(failed.is_empty(), "without a sidecar: {failed:?}");
    let heard = closes(&server.peer, 0, direct.len());
    for (round, dial) in [(1, proxy.inbound().to_string()), (2, proxy.outbound().to_string())] {
        let through = cases(&url, Some(&dial), deflate);
        assert_eq!(through.len(), direct.len());
        for (through, direct) in through.iter().zip(&direct) {
            if direct["odd"] == true {
                assert_eq!(codes(&through["heard"]), codes(&direct["heard"]), "{through}, direct: {direct}");
            } else {
                assert_eq!(through, direct, "{dial}");
            }
        }
        // And the other side.
        let through = closes(&server.peer, round * direct.len(), direct.len());
        for case in direct.iter().filter(|case| case["odd"] == false) {
            let target = case["target"].as_str().expect("a target");
            assert_eq!(through[target], heard[target], "at the server: {case}");
        }
    }
}

#[test]
fn in_21_npm_ws_hears_and_says_the_same() {
    assert_as_direct(&Server::start(), false, 90);
}

#[test]
fn in_21_npm_ws_hears_and_says_the_same_compressed() {
    assert_as_direct(&Server::start(), true, 19);
}

#[test]
fn in_21_pypi_websockets_hears_and_says_the_same() {
    assert_as_direct(&Server::start_python(), false, 90);
}

#[test]
fn in_21_pypi_websockets_hears_and_says_the_same_compressed() {
    assert_as_direct(&Server::start_python(), true, 19);
}
