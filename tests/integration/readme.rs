//! Does README.md say what the code does? Its tables and policies are rendered here, from the code and from
//! `deploy/examples`, and compared; its example policies are compiled. And is what ARCHITECTURE.md names still there?
//!
//! `COUNTERSIGN_BLESS=1 cargo test --profile demo -p countersign-tests --test integration readme` writes them anew.

mod proxy_status;

use std::fs;
use std::path::Path;

use clap::{Arg, CommandFactory};
use countersign_policy::profile::Shape;
use countersign_policy::{Documents, Profile, Reason, Source, Workload, source};
use countersign_proxy::metrics::METRICS;
use countersign_proxy::rejection::Refusal;

use crate::support::root;
use crate::tidy::sources;

#[test]
fn generated_parts_are_those_of_the_code() {
    let path = root().join("README.md");
    let written = fs::read_to_string(&path).expect("README.md");
    let rendered = render(&written);
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        fs::write(&path, &rendered).expect("README.md can be written");
        return;
    }
    let stale = written.lines().zip(rendered.lines()).find(|(written, rendered)| written != rendered);
    assert!(
        written == rendered,
        "README.md is not what the code says, first at {stale:?}: run \
         COUNTERSIGN_BLESS=1 cargo test --profile demo -p countersign-tests --test integration readme"
    );
}

#[test]
fn every_table_stands_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for (name, _) in TABLES {
        assert_eq!(readme.matches(&format!("<!-- generated: {name} -->")).count(), 1, "{name}");
    }
}

#[test]
fn example_policies_are_sound() {
    for name in ["standalone", "shop", "bound"] {
        let folder = root().join("deploy/examples").join(name);
        let documents =
            Documents::parse(read_policies(&folder)).unwrap_or_else(|problems| panic!("{problems:#?}"));
        for app in ["orders", "checkout"] {
            let namespace = if name == "shop" { "shop" } else { "default" };
            let labels = [("app".to_owned(), app.to_owned())].into();
            let workload = Workload {
                namespace: namespace.to_owned(),
                name: app.to_owned(),
                labels,
                service_account: None,
            };
            let snapshot = documents.compile(&workload).unwrap_or_else(|problems| panic!("{problems:#?}"));
            assert_eq!(snapshot.inbound(8080).is_some(), app == "orders", "{name}");
            assert_eq!(snapshot.token_requests.is_empty(), app == "orders", "{name}");
        }
    }
}

fn read_policies(folder: &Path) -> Vec<Source> {
    let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let policies = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    policies
        .flat_map(|file| {
            let bytes = fs::read(&file).expect("a policy file");
            source::split(&file.display().to_string(), &bytes).unwrap_or_else(|problem| panic!("{problem}"))
        })
        .collect()
}

#[test]
fn flags_have_the_environment_variables_that_the_readme_promises() {
    for (program, command) in [
        ("countersign-proxy run", proxy_run()),
        ("countersign-proxy init", proxy_init()),
        ("countersign-control serve", control_serve()),
        ("countersign-control explain", control_explain()),
    ] {
        for (flag, argument) in flags(&command) {
            let expected = format!("COUNTERSIGN_{}", flag.to_uppercase().replace('-', "_"));
            let found = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(found.as_deref(), Some(&*expected), "{program} --{flag}");
            // Kubernetes sets such variables for a Service that is named countersign-...: `Cli::read` knows those of a sidecar.
            let is_service = ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|end| expected.contains(end));
            let is_port = expected.ends_with("_PORT") && program == "countersign-control serve";
            assert!(!is_service && !is_port && !expected.contains("_PORT_"), "{expected}");
        }
    }
}

#[test]
fn architecture_names_files_and_tests_that_exist() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let sources = sources("");
    let mut names = 0;
    for name in document.split('`').skip(1).step_by(2) {
        if name.ends_with(".rs") {
            names += 1;
            assert!(sources.iter().any(|file| file.name.ends_with(name)), "there is no file {name}");
        } else if let Some((module, test)) = name.split_once("::")
            && let Some(file) = sources.iter().find(|f| f.name == format!("tests/integration/{module}.rs"))
        {
            names += 1;
            assert!(file.text.contains(&format!("fn {test}(")), "there is no test {name}");
        }
    }
    assert!(names > 50, "{names}");
}

#[test]
fn what_the_application_sees_names_reasons_with_their_status() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, section) = readme.split_once("\n## What the application sees\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section follows");
    let words: Vec<&str> = section.split('`').collect();
    let mut named = Vec::new();
    for pair in words.windows(2).step_by(2) {
        let [before, word] = pair else { continue };
        // A status before it: `word` is a reason.
        let Some(status) = before.strip_suffix(' ').and_then(|text| text.get(text.len().checked_sub(4)?..))
        else {
            continue;
        };
        let Ok(status) = status.trim_start().parse::<u16>() else { continue };
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == *word);
        assert_eq!(reason.map(|reason| reason.status()), Some(status), "{status} `{word}`");
        named.push(*word);
    }
    for word in ["egress_denied", "token_unavailable", "upstream_timeout", "method_not_allowed", "inactive"] {
        assert!(named.contains(&word), "{named:?}");
    }
}

/// The `sh` block between `<!-- test: NAME -->` and `<!-- end -->`.
pub(crate) fn commands(name: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    block(&readme, &format!("<!-- test: {name} -->\n```sh\n"))
}

/// What the block of this name prints: between `<!-- output: NAME -->` and `<!-- end -->`.
pub(crate) fn output(name: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    block(&readme, &format!("<!-- output: {name} -->\n```\n"))
}

fn block(readme: &str, start: &str) -> String {
    let (_, rest) = readme.split_once(start).expect("the block is in README.md");
    let (block, _) = rest.split_once("```\n<!-- end -->").expect("the block ends");
    block.to_owned()
}

// === rendering ===

type Table = fn() -> String;

const TABLES: &[(&str, Table)] = &[
    ("reasons", reasons),
    ("errors of Proxy-Status", proxy_status::render),
    ("metrics", metrics),
    ("profiles", profiles),
    ("flags of countersign-proxy run", || flag_table(&proxy_run())),
    ("flags of countersign-proxy init", || flag_table(&proxy_init())),
    ("flags of countersign-control serve", || flag_table(&control_serve())),
    ("flags of countersign-control explain", || flag_table(&control_explain())),
];

/// The document with everything between `<!-- generated: NAME -->` and `<!-- end -->` written anew.
fn render(document: &str) -> String {
    let mut rendered = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        rendered.extend([line, "\n"]);
        let Some(name) = line.strip_prefix("<!-- generated: ").and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        rendered.extend(["\n", &generate(name), "\n<!-- end -->\n"]);
        assert!(lines.any(|line| line == "<!-- end -->"), "{name} does not end");
    }
    rendered
}

fn generate(name: &str) -> String {
    if let Some((_, table)) = TABLES.iter().find(|(known, _)| *known == name) {
        return table();
    }
    let file = fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    format!("```yaml\n{file}```\n")
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut table = row(&head);
    table.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    for cells in rows {
        assert_eq!(cells.len(), head.len(), "{cells:?}");
        table.push_str(&row(&cells));
    }
    table
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn codes(words: &[&str]) -> String {
    words.iter().map(|word| code(word)).collect::<Vec<_>>().join(" ")
}

fn reasons() -> String {
    let rows = Reason::ALL.iter().map(|&reason| {
        let challenge = Refusal::from(reason).challenge().unwrap_or_default();
        let error = challenge.split("error=\"").nth(1).and_then(|rest| rest.split('"').next());
        let challenge = match (challenge.split(' ').next().unwrap_or_default(), error) {
            ("", _) => String::new(),
            (scheme, None) => scheme.to_owned(),
            (scheme, Some(error)) => format!("{scheme} {}", code(error)),
        };
        let numbers = [reason.status().to_string(), reason.grpc_status().to_string()];
        let [status, grpc] = numbers;
        vec![
            code(reason.as_str()),
            status,
            challenge,
            grpc,
            format!("{}. {}.", reason.title(), what_to_do(reason)),
        ]
    });
    table(&["reason", "HTTP", "challenge", "gRPC", "what it means, and what to do"], rows)
}

/// A reason without an advice does not compile.
fn what_to_do(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingToken => "Get one from an issuer that the policy's `tokens` name",
        Reason::MalformedToken => {
            "Send a JWT in compact form; opaque tokens are accepted only where policy says `introspect`"
        }
        Reason::UnsupportedAlgorithm => "See the issuer's `algorithms`; HMAC and `none` are never accepted",
        Reason::UnknownIssuer => {
            "Compare the token's `iss` with the issuers of the policy's `tokens`, byte by byte"
        }
        Reason::UnknownKey => {
            "The issuer has to publish a key before it signs; keys that we do not know are looked for once in 30 s"
        }
        Reason::BadSignature => {
            "The token was altered, or signed by somebody else: get one from the issuer, and pass it on as it is"
        }
        Reason::Expired => "Get a new one; mind the clocks",
        Reason::NotYetValid => "Mind the clocks, or raise the issuer's `leeway`",
        Reason::WrongAudience => "Ask for one of the policy's `audiences`",
        Reason::WrongType => "Send the access token, not the ID token; see the issuer's `profile`",
        Reason::MissingClaim => "See what the issuer's `profile` demands",
        Reason::Inactive => {
            "The issuer was asked and does not know it, or it has expired or been revoked (outbound: it does not exchange it): get \
             a new one"
        }
        Reason::Revoked => "Get a new one (not produced by this version)",
        Reason::BindingMismatch => {
            "A token with `cnf.jkt` comes with scheme `DPoP` and a proof, one with `cnf.x5t#S256` over TLS with that \
             certificate, any other with scheme `Bearer`; where policy says `binding: required`, ask for a bound one"
        }
        Reason::ProofInvalid => {
            "Make one for each request (RFC 9449 §4.2): `htu` has the scheme, host and port that reach the sidecar, \
             `iat` is at most 60 s old; the log says more at `debug`"
        }
        Reason::ProofReplayed => "Make a new proof for each request, repeated ones too",
        Reason::MultipleTokens => "Send one `Authorization` field with one credential",
        Reason::BadRequest => "Mend `Host`, framing or header fields; the connection is closed",
        Reason::AmbiguousPath => {
            "Write it without `//`, dot segments, `;`, escapes that are not UTF-8 and escaped separators; `rawPaths` in a \
             rule admits the latter"
        }
        Reason::HeadTooLarge => "At most 64 KiB and 100 fields",
        Reason::UriTooLong => "At most 16 KiB",
        Reason::MethodNotAllowed => "Outbound, rules with `tls: originate` reach what speaks https",
        Reason::UnsupportedProtocol => {
            "Over HTTP/2 that is WebSocket alone (RFC 8441), where the upstream is spoken to in HTTP/1.1"
        }
        Reason::InsufficientScope => "Ask for the scopes in the challenge",
        Reason::NoRule => "The policy has to allow it: see `/explain`",
        Reason::DeniedByRule => "`/explain` names the rule",
        Reason::PeerRequired => "Show one that a CA in the policy's `clientCaFile` has issued",
        Reason::AmbiguousDestination => {
            "Target, `Host` and `:authority` have to name one destination, and not the sidecar"
        }
        Reason::EgressDenied => "Add an outbound rule, or `egress: pass`",
        Reason::UpstreamUnreachable => "Does it run, and does TLS verify? The log says more at `debug`",
        Reason::UpstreamTimeout => "See `timeouts` in the policy",
        Reason::KeysUnavailable => {
            "The issuer has not answered yet, or cannot be asked about an opaque token: the log says why, and `/tokens` for \
             the latter. Try again"
        }
        Reason::TokenUnavailable => "`/tokens` says why; try again after `Retry-After`",
        Reason::PolicyUnavailable => "The control plane has not answered yet: the log says why. Try again",
        Reason::Overloaded => {
            "Try again, or add workers; for opaque tokens, too many came at once that the issuer does not know"
        }
        Reason::Internal => "Report it, with the decision id",
    }
}

fn metrics() -> String {
    let rows = METRICS.iter().map(|metric| {
        vec![code(metric.name), metric.kind.to_owned(), codes(metric.labels), metric.help.to_owned()]
    });
    table(&["metric", "type", "labels", "help"], rows)
}

fn profiles() -> String {
    let shapes: Vec<&Shape> = Profile::ALL.iter().map(|profile| profile.shape()).collect();
    let or = |claims: &[&str]| claims.iter().map(|claim| code(claim)).collect::<Vec<_>>().join(", else ");
    let rows = shapes.iter().map(|shape| {
        let types: Vec<String> =
            shape.types.iter().map(|typ| typ.map_or("absent".to_owned(), code)).collect();
        let scopes = if shape.scope_lists {
            format!("{} (string or list)", or(shape.scopes))
        } else {
            or(shape.scopes)
        };
        let roles = if shape.roles.is_empty() { String::new() } else { code(&shape.roles.join(".")) };
        vec![code(shape.name), types.join(", "), codes(shape.claims), or(shape.client), scopes, roles]
    });
    let head = ["profile", "`typ`", "demanded claims", "client", "scopes", "roles"];
    let mut text = table(&head, rows);
    text.push_str("\nWhat each relaxes, and why:\n\n");
    for shape in shapes {
        text.push_str(&format!("- `{}`: {}\n", shape.name, shape.relaxes));
    }
    text
}

// === the command line ===

fn proxy_run() -> clap::Command {
    subcommand(countersign_proxy::config::Cli::command(), "run")
}

fn proxy_init() -> clap::Command {
    subcommand(countersign_proxy::config::Cli::command(), "init")
}

fn control_serve() -> clap::Command {
    subcommand(countersign_control::config::Cli::command(), "serve")
}

fn control_explain() -> clap::Command {
    subcommand(countersign_control::config::Cli::command(), "explain")
}

fn subcommand(mut command: clap::Command, name: &str) -> clap::Command {
    command.build();
    command.find_subcommand(name).expect("the subcommand is there").clone()
}

/// The flags by name, but for those that clap adds.
fn flags(command: &clap::Command) -> Vec<(String, Arg)> {
    let ours =
        command.get_arguments().filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"));
    ours.filter_map(|argument| Some((argument.get_long()?.to_owned(), argument.clone()))).collect()
}

fn flag_table(command: &clap::Command) -> String {
    let rows = flags(command).into_iter().map(|(flag, argument)| {
        let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
        let value = value.and_then(|names| names.first()).map(|name| format!(" {name}")).unwrap_or_default();
        let mut help = argument.get_help().expect("every flag says what it does").to_string();
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let defaults = if argument.is_hide_default_value_set() { Vec::new() } else { defaults };
        if !defaults.is_empty() && argument.get_action().takes_values() {
            help.push_str(&format!(" [default: {}]", defaults.join(", ")));
        }
        vec![code(&format!("--{flag}{value}")), help.replace('|', "\\|")]
    });
    table(&["flag", "what it does"], rows)
}
