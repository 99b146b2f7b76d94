//! What does `nft` say is installed? Its JSON (libnftables-json(5)), read back into rules; what is none of ours stays as it
//! is, and so is a difference.

use std::net::IpAddr;

use serde_json::Value;

use super::line;
use crate::init::plan::{Family, Match, Rule, Verdict};
use crate::init::program::ProgramError;
use crate::init::values::{Ranges, to_number};

/// The name of the table.
pub(super) const NAME: &str = "countersign";

/// One line for each chain, followed by its rules, and one for anything else in the table.
pub(super) fn lines(json: &str) -> Result<Vec<String>, ProgramError> {
    let objects = objects(json)?;
    let mut lines = Vec::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let name = text(chain, "/name");
        lines.push(format!("{name}: {}", place(chain)));
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        for rule in rules.filter(|rule| text(rule, "/chain") == name) {
            let read = rule.get("expr").and_then(Value::as_array).and_then(|parts| read(parts));
            let said = read.map_or_else(|| as_it_is(rule), |rule| line(&rule));
            lines.push(format!("{name}: {said}"));
        }
    }
    let known = ["metainfo", "table", "chain", "rule"];
    let others = objects.iter().filter(|object| known.iter().all(|known| object.get(known).is_none()));
    lines.extend(others.map(Value::to_string));
    Ok(lines)
}

fn objects(json: &str) -> Result<Vec<Value>, ProgramError> {
    let document: Option<Value> = serde_json::from_str(json).ok();
    let objects = document.and_then(|document| document.get("nftables")?.as_array().cloned());
    objects.ok_or_else(|| ProgramError::Failed {
        program: "nft",
        message: "lists rules in a form that is not known; it needs JSON support".to_owned(),
    })
}

/// Where a chain hooks in, as it is written.
fn place(chain: &Value) -> String {
    let priority = chain.get("prio").map(Value::to_string).unwrap_or_default();
    let [kind, hook, policy] = ["/type", "/hook", "/policy"].map(|name| text(chain, name));
    format!("type {kind} hook {hook} priority {priority}; policy {policy};")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A rule that is none of ours.
fn as_it_is(rule: &Value) -> String {
    rule.get("expr").unwrap_or(rule).to_string()
}

// === rules ===

/// A rule of a kind that we write.
fn read(parts: &[Value]) -> Option<Rule> {
    let mut rule = Rule { matches: Vec::new(), verdict: Verdict::Pass, why: "" };
    let (last, parts) = parts.split_last()?;
    rule.verdict = match last.pointer("/redirect/port") {
        Some(port) => Verdict::Redirect(u16::try_from(port.as_u64()?).ok()?),
        None => last.get("accept").map(|_| Verdict::Pass)?,
    };
    for part in parts.iter().filter(|part| part.get("counter").is_none()) {
        rule.matches.push(read_match(part.get("match")?)?);
    }
    Some(rule)
}

fn read_match(matched: &Value) -> Option<Match> {
    let (left, right) = (matched.get("left")?, matched.get("right")?);
    if left.get("fib").is_some() {
        let expected = serde_json::json!({"fib": {"result": "type", "flags": ["daddr"]}});
        let alone = serde_json::json!({"fib": {"result": "type", "flags": "daddr"}});
        let same = (*left == expected || *left == alone) && right == "local";
        return (same && text(matched, "/op") == "!=").then_some(Match::NotLocal);
    }
    if text(matched, "/op") != "==" {
        return None;
    }
    let id = || right.as_u64().and_then(|id| u32::try_from(id).ok());
    match text(left, "/meta/key") {
        "skuid" => return id().map(Match::User),
        "skgid" => return id().map(Match::Group),
        "mark" => return id().map(Match::Mark),
        "oifname" => return (right == "lo").then_some(Match::ToSelf),
        "l4proto" => return (right == "tcp").then_some(Match::Tcp),
        _ => {}
    }
    match (text(left, "/payload/protocol"), text(left, "/payload/field")) {
        ("ip", "daddr") => Some(Match::To(Family::V4, ranges(right)?)),
        ("ip6", "daddr") => Some(Match::To(Family::V6, ranges(right)?)),
        ("tcp", "dport") => Some(Match::Port(ranges(right)?)),
        _ => None,
    }
}

/// One number or address, a prefix, a range, or a set of these.
fn ranges(value: &Value) -> Option<Ranges> {
    let ranges = match value.get("set").and_then(Value::as_array) {
        Some(set) => set.iter().map(range).collect::<Option<Vec<_>>>()?,
        None => vec![range(value)?],
    };
    Some(Ranges::new(ranges))
}

fn range(value: &Value) -> Option<(u128, u128)> {
    if let Some(prefix) = value.get("prefix") {
        let address: IpAddr = text(prefix, "/addr").parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = u32::try_from(prefix.get("len")?.as_u64()?).ok()?;
        let hosts = 1_u128.checked_shl(bits - length.min(bits)).map_or(u128::MAX, |size| size - 1);
        let first = to_number(address);
        return Some((first, first | hosts));
    }
    if let Some(range) = value.get("range").and_then(Value::as_array) {
        let [first, last] = &range[..] else { return None };
        return Some((number(first)?, number(last)?));
    }
    number(value).map(|number| (number, number))
}

fn number(value: &Value) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u64().map(Into::into),
        Value::String(address) => address.parse().ok().map(to_number),
        _ => None,
    }
}
