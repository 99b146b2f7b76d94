//! Does curl's HTTP/2 get through the sidecar what it gets without? Both sides of it: large bodies, many at once, answers without
//! bodies, trailers.

use std::net::SocketAddr;
use std::thread;

use serde_json::Value;

use crate::support::policy::{Folder, open_policy};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::{curl, curl_to_the_end};
use crate::support::upstream::Upstream;

/// The application, and a sidecar that is before it and through which it is reached as well.
struct World {
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

/// Direct, inbound and outbound.
const WAYS: [&str; 3] = ["direct", "inbound", "outbound"];
const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];
const LARGE: usize = 64 * 1024 * 1024;

impl World {
    fn new() -> Self {
        let (upstream, folder) = (Upstream::start(), open_policy());
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { upstream, proxy, folder }
    }

    /// Where curl dials; the host that it asks for is always that of the application.
    fn dial(&self, way: &str) -> SocketAddr {
        match way {
            "direct" => self.upstream.address(),
            "inbound" => self.proxy.inbound(),
            _ => self.proxy.outbound(),
        }
    }

    fn arguments(&self, way: &str, version: &str, path: &str) -> Vec<String> {
        let host = format!("Host: {}", self.upstream.address());
        let url = format!("http://{}{path}", self.dial(way));
        [version, "-H", &host, &url].map(str::to_owned).to_vec()
    }
}

fn strings(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// What an answer says, but for what is of the connection or the clock.
fn said(output: &str) -> Vec<String> {
    let mut lines: Vec<_> = output.lines().map(|line| line.trim_end().to_lowercase()).collect();
    lines.retain(|line| !line.starts_with("date:") && !line.starts_with("transfer-encoding:"));
    lines
}

#[test]
fn answers_of_every_kind_are_those_of_the_application() {
    let world = World::new();
    for version in VERSIONS {
        for (more, path) in [
            (&[][..], "/status/200"),
            (&[], "/status/204"),
            (&[], "/status/304"),
            (&[], "/status/418"),
            (&[], "/redirect/1"),
            (&["-H", "TE: trailers"], "/trailers"),
            (&["-X", "PURGE"], "/status/200"),
            (&["-X", "OPTIONS"], "/status/200"),
            (&["-H", "Expect: 100-continue", "--data", "abc"], "/size"),
            (&["--data", ""], "/size"),
        ] {
            let [direct, ours @ ..] = WAYS.map(|way| {
                let arguments = world.arguments(way, version, path);
                curl(&[more, &strings(&arguments)[..]].concat())
            });
            for ours in ours {
                assert_eq!((ours.status, &ours.version), (direct.status, &direct.version), "{path} {more:?}");
                assert_eq!(said(&ours.output), said(&direct.output), "{version} {path} {more:?}");
            }
        }
    }
}

#[test]
fn large_bodies_pass_whole_in_both_directions() {
    let world = World::new();
    std::fs::write(world.folder.file("body"), vec![b'x'; LARGE]).unwrap();
    let file = world.folder.file("body").display().to_string();
    for way in WAYS {
        for version in VERSIONS {
            let up = world.arguments(way, version, "/size");
            let answer = curl(&[&["--upload-file", &file, "-H", "Expect:"], &strings(&up)[..]].concat());
            assert_eq!(answer.status, 200, "{way} {version}: {answer:?}");
            assert!(answer.output.ends_with(&format!("\r\n\r\n{LARGE}")), "{way} {version}: {answer:?}");
            let down = world.arguments(way, version, &format!("/bytes/{LARGE}"));
            let write = ["--output", "/dev/null", "--write-out", "%{size_download} %{http_version}"];
            let done = curl_to_the_end(&[&write[..], &strings(&down)[..]].concat());
            let number = if version == VERSIONS[0] { "1.1" } else { "2" };
            assert_eq!(done.stdout, format!("{LARGE} {number}"), "{way} {version}: {}", done.stderr);
        }
    }
}

/// By many curls; those of HTTP/1.1 ask for many at a time themselves. curl 7.88 cannot use a connection twice that begins with HTTP/2.
#[test]
fn many_at_once_are_all_answered_by_themselves() {
    let world = World::new();
    for way in WAYS {
        for (version, curls, each) in [(VERSIONS[0], 8, 50), (VERSIONS[1], 40, 1)] {
            thread::scope(|scope| {
                for curl in 0..curls {
                    let path = format!("/each/{curl}-[1-{each}]");
                    let arguments = world.arguments(way, version, &path);
                    let output = world.folder.file(&format!("answer-{curl}-#1")).display().to_string();
                    scope.spawn(move || {
                        let parallel = if version == VERSIONS[0] { &["--parallel"][..] } else { &[] };
                        let done = curl_to_the_end(
                            &[parallel, &["--output", &output], &strings(&arguments)[..]].concat(),
                        );
                        assert_eq!(done.code, Some(0), "{way} {version}: {}", done.stderr);
                    });
                }
            });
            for (curl, index) in (0..curls).flat_map(|curl| (1..=each).map(move |index| (curl, index))) {
                let file = world.folder.file(&format!("answer-{curl}-{index}"));
                let answer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                assert_eq!(answer["target"], format!("/each/{curl}-{index}"), "{way} {version}");
                std::fs::remove_file(file).unwrap();
            }
        }
    }
}
