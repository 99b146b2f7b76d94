//! Does curl see that an answer took too long? Over HTTP/1.1 and HTTP/2, inbound and outbound, before and in the middle of it.

use serde_json::json;

use crate::support::tools::{curl, curl_to_the_end};
use crate::support::upstream::Upstream;
use crate::support::wait_until;
use crate::totals::{LATE, TOTAL, World};

/// The versions, and what curl says of an answer that lacks its end: CURLE_PARTIAL_FILE, CURLE_HTTP2_STREAM.
const VERSIONS: [(&str, i32); 2] = [("--http1.1", 18), ("--http2-prior-knowledge", 92)];

/// What curl is told, for each way and version, and with what it ends where the answer breaks off.
fn asked(world: &World, path: &str) -> Vec<(Vec<String>, i32)> {
    let host = format!("Host: {}", world.host);
    world
        .ways()
        .iter()
        .flat_map(|way| {
            VERSIONS.map(|(version, code)| {
                let arguments = [version, "-H", &host, &format!("http://{way}{path}")];
                (arguments.map(str::to_owned).to_vec(), code)
            })
        })
        .collect()
}

fn world() -> (World, Upstream) {
    let upstream = Upstream::start();
    (World::new(upstream.address(), &json!({})), upstream)
}

fn strings(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn an_answer_that_does_not_begin_in_time_is_504() {
    let (world, _upstream) = world();
    for (arguments, _) in asked(&world, "/slow/20000") {
        let answer = curl(&strings(&arguments));
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(answer.output.contains("\"reason\":\"upstream_timeout\""), "{answer:?}");
        assert!(answer.output.contains("countersign; error=http_response_timeout"), "{answer:?}");
    }
}

#[test]
fn an_answer_under_way_breaks_off_and_what_came_is_there() {
    let (world, upstream) = world();
    for path in ["/stream", "/flood"] {
        for (arguments, code) in asked(&world, path) {
            let write = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"];
            let done = curl_to_the_end(&[&write, &strings(&arguments)[..]].concat());
            assert_eq!(done.code, Some(code), "{arguments:?}: {}", done.stderr);
            assert!(done.took >= TOTAL && done.took < LATE, "{arguments:?}: {:?}", done.took);
            let (status, size) = done.stdout.split_once(' ').expect("status and size");
            assert!(status == "200" && size.parse::<u64>().unwrap() > 10, "{arguments:?}: {}", done.stdout);
            assert!(code == 18 || done.stderr.contains("INTERNAL_ERROR"), "{}", done.stderr);
        }
        wait_until("the application to be free", LATE, || upstream.flowing() == 0);
    }
}

#[test]
fn a_fast_answer_is_as_it_is() {
    let (world, _upstream) = world();
    for (arguments, _) in asked(&world, "/bytes/1000000") {
        let write = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"];
        let done = curl_to_the_end(&[&write, &strings(&arguments)[..]].concat());
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), "200 1000000"), "{}", done.stderr);
    }
}
