//! Does a database session pass that is none of ours? PostgreSQL's own server and client, in simulated pods: what the client
//! prints and what the wire carries are the same as without sidecars.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::pair::Pair;
use crate::support::pods::{As, Pod};
use crate::support::process::{Process, run};
use crate::support::wait_until;

/// Neither of the sidecar nor of the application, with a name, which `initdb` asks for: nobody.
const SERVER: As = As::Ids(65534, 65534);
const LIMIT: Duration = Duration::from_secs(60);

/// A program of the server's package, which is not in `PATH`.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed");
    let programs = versions.map(|version| version.expect("a version").path().join("bin").join(name));
    programs.filter(|path| path.exists()).max().unwrap_or_else(|| panic!("{name} is not installed"))
}

/// A database of its own, and the server of it on every address of the pod.
struct Database {
    _server: Process,
    _folder: TempDir,
}

impl Database {
    fn start(pod: &Pod) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let done = run(Command::new("chown").arg("65534:65534").arg(folder.path()), LIMIT);
        assert_eq!(done.code, Some(0), "{done:?}");
        let data = folder.path().join("data");
        let mut initdb = pod.command(SERVER, program("initdb"));
        initdb.args([
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ]);
        let done = run(initdb.arg(&data), LIMIT);
        assert_eq!(done.code, Some(0), "{done:?}");
        std::fs::write(data.join("pg_hba.conf"), "host all all all trust\n").expect("who may come in");
        let mut server = pod.command(SERVER, program("postgres"));
        server.arg("-D").arg(&data).args(["-c", "listen_addresses=*", "-c", "unix_socket_directories="]);
        let server = Process::spawn("postgres", server.args(["-c", "fsync=off"]));
        wait_until("postgres", LIMIT, || server.stderr().contains("ready to accept connections"));
        Self { _server: server, _folder: folder }
    }
}

/// One session: what the client printed.
fn session(pod: &Pod, host: &str, port: u16, script: &Path) -> String {
    let mut psql = pod.command(As::Application, program("psql"));
    psql.env("PGGSSENCMODE", "disable").env("HOME", "/nonexistent");
    psql.args(["-X", "-A", "-h", host, "-p", &port.to_string(), "-U", "postgres", "-d", "postgres", "-f"]);
    let done = run(psql.arg(script), LIMIT);
    assert_eq!(done.code, Some(0), "{host}:{port}: {done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "the one error that is meant: {}", done.stderr);
    assert!(done.stderr.contains("division by zero"), "{}", done.stderr);
    // Who told it is another process each time.
    done.stdout.split(" received from server process with PID ").next().unwrap_or_default().to_owned()
}

#[test]
fn a_postgresql_session_passes_byte_for_byte() {
    let outbound = json!({"rules": [
        {"name": "database", "to": {"hosts": ["v4.shop.test", "v6.shop.test"], "ports": [5432]}, "protocol": "tcp", "tls": "none"},
    ]});
    let inbound = json!({"ports": [5432], "protocol": "tcp", "rules": [{"name": "all", "public": true}]});
    let pair = Pair::start(&outbound, &[inbound], &[], "");
    let [a, b] = pair.pods();
    let _database = Database::start(b);
    let scripts = tempfile::tempdir().expect("a temporary folder");
    let script = scripts.path().join("session.sql");
    std::fs::write(&script, SESSION).expect("a script");
    crate::support::pods::open_to_all(scripts.path());

    // Without sidecars, through something that counts.
    let mut counter = Process::spawn("a counter", b.command(As::Root, "python3").args(["-u", "-c", COUNTER]));
    assert_eq!(counter.first_line(LIMIT), "ready");
    let direct = session(b, "127.0.0.1", 5999, &script);
    wait_until("the end of the session", LIMIT, || counter.stdout().lines().count() == 2);
    let counted = counter.stdout();
    let numbers: Vec<u64> =
        counted.lines().nth(1).expect("a line").split(' ').map(|n| n.parse().expect("a number")).collect();
    let carried = (numbers[0], numbers[1]);
    assert!(carried.0 > 600_000 && carried.1 > 2_000_000, "{carried:?}");
    assert!(direct.contains("it is out") && direct.lines().count() > 10_000, "{direct}");

    for host in ["v4.shop.test", "v6.shop.test"] {
        let before = pair.bytes();
        assert!(session(a, host, 5432, &script) == direct, "{host}: the client prints something else");
        let since = || -> Vec<(u64, u64)> {
            let now = pair.bytes();
            now.iter().zip(&before).map(|(now, before)| (now.0 - before.0, now.1 - before.1)).collect()
        };
        wait_until("the end of the session", Duration::from_secs(5), || since() == [carried; 2]);
    }
    let bypassed = pair.checkout.scrape().sum("countersign_outbound_bypassed_total", &[("reason", "tcp")]);
    assert_eq!(bypassed, 2.0);
}

/// Many rows and one large one, both ways; a statement that was prepared, one that fails, and one that is told of.
const SESSION: &str = r"
CREATE TEMP TABLE orders (id int PRIMARY KEY, item text);
INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 10000) AS n;
SELECT * FROM orders ORDER BY id;
SELECT repeat('x', 1500000);
PREPARE item (int) AS SELECT item FROM orders WHERE id = $1;
EXECUTE item (7);
EXECUTE item (8);
\copy orders TO PROGRAM 'cat > /dev/null'
CREATE TEMP TABLE copied (id int, line text);
\copy copied FROM PROGRAM 'seq 1 60000 | sed s/$/,abcdef/' WITH (FORMAT csv)
SELECT count(*), sum(id) FROM copied;
BEGIN;
SELECT 1 / 0;
ROLLBACK;
SELECT count(*) FROM orders;
LISTEN news;
NOTIFY news, 'it is out';
";

/// Passes one connection after the other on to the server, and prints what went each way.
const COUNTER: &str = r#"
import socket, threading
listener = socket.create_server(("127.0.0.1", 5999))
print("ready")
while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", 5432))
    counted = [0, 0]
    def carry(source, sink, way):
        while data := source.recv(65536):
            counted[way] += len(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    back = threading.Thread(target=carry, args=(far, near, 1))
    back.start()
    carry(near, far, 0)
    back.join()
    print(*counted)
"#;
