//! How is the plan said to nftables? One transaction that replaces a table of our own, so that there is no moment without
//! rules and no rule of anybody else is touched.

use super::difference::{Difference, between};
use super::plan::{Family, Match, Plan, Rule, Verdict};
use super::program::{ProgramError, run};
use super::values::{Ranges, from_number};

mod listed;

/// The family and name of the table, the names and places of its chains.
pub(super) const TABLE: &str = "inet countersign";
const OUTBOUND: (&str, &str) = ("outbound", "type nat hook output priority -100; policy accept;");
const INBOUND: (&str, &str) = ("inbound", "type nat hook prerouting priority -100; policy accept;");

/// The whole transaction. A table that is not there cannot be deleted, so it is added before.
pub(super) fn script(plan: &Plan) -> String {
    let mut script = removal();
    script.push_str(&format!("add table {TABLE}\n"));
    for ((name, place), rules) in chains(plan) {
        script.push_str(&format!("add chain {TABLE} {name} {{ {place} }}\n"));
        for rule in rules {
            let (matches, verdict) = (matches(rule), verdict(rule));
            let line = format!("{matches} counter {verdict} comment \"{}\"", rule.why);
            script.push_str(&format!("add rule {TABLE} {name} {line}\n"));
        }
    }
    script
}

/// The transaction that takes it all away.
pub(super) fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// Feeds a script to `nft`: all of it holds, or nothing.
pub(super) fn apply(script: &str) -> Result<(), ProgramError> {
    run("nft", &["-f", "-"], script).map(|_| ())
}

/// What is installed, against the plan.
pub(super) fn check(plan: &Plan) -> Result<Vec<Difference>, ProgramError> {
    let asked: Vec<String> = chains(plan)
        .into_iter()
        .flat_map(|((name, place), rules)| {
            let rules = rules.iter().map(move |rule| format!("{name}: {}", line(rule)));
            [format!("{name}: {place}")].into_iter().chain(rules)
        })
        .collect();
    if !is_there()? {
        return Ok(between(&asked, &[]));
    }
    // Dormant, none of its rules holds, and nftables 1.0.6 says so in what is no JSON.
    if let Some(flags) = flags()? {
        return Ok(vec![Difference::Unexpected(format!("table {TABLE}: {flags}"))]);
    }
    Ok(between(&asked, &listed::lines(&run("nft", &["-j", "list", "table", "inet", listed::NAME], "")?)?))
}

/// Listing a table that is not there is an error like any other, so those that are there are asked for first.
fn is_there() -> Result<bool, ProgramError> {
    let tables = run("nft", &["list", "tables", "inet"], "")?;
    Ok(tables.lines().any(|line| line.strip_prefix("table ") == Some(TABLE)))
}

/// The line that says which flags the table has, if any.
fn flags() -> Result<Option<String>, ProgramError> {
    let table = run("nft", &["list", "table", "inet", listed::NAME], "")?;
    Ok(table.lines().map(str::trim).find(|line| line.starts_with("flags ")).map(str::to_owned))
}

type Chain<'a> = ((&'static str, &'static str), &'a [Rule]);

fn chains(plan: &Plan) -> [Chain<'_>; 2] {
    [(OUTBOUND, &plan.outbound), (INBOUND, &plan.inbound)]
}

/// A rule without what is for readers: counter and comment.
fn line(rule: &Rule) -> String {
    format!("{} {}", matches(rule), verdict(rule))
}

fn matches(rule: &Rule) -> String {
    rule.matches.iter().map(said).collect::<Vec<_>>().join(" ")
}

fn said(matched: &Match) -> String {
    match matched {
        Match::User(id) => format!("meta skuid {id}"),
        Match::Group(id) => format!("meta skgid {id}"),
        Match::Mark(mark) => format!("meta mark {mark:#x}"),
        Match::ToSelf => "oifname \"lo\"".to_owned(),
        Match::To(Family::V4, ranges) => {
            format!("ip daddr {}", set(ranges, |number| from_number(number, true).to_string()))
        }
        Match::To(Family::V6, ranges) => {
            format!("ip6 daddr {}", set(ranges, |number| from_number(number, false).to_string()))
        }
        Match::Port(ranges) => format!("tcp dport {}", set(ranges, |number| number.to_string())),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::NotLocal => "fib daddr type != local".to_owned(),
    }
}

fn set(ranges: &Ranges, one: impl Fn(u128) -> String) -> String {
    let range = |(first, last)| {
        if first == last { one(first) } else { format!("{}-{}", one(first), one(last)) }
    };
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    match &ranges[..] {
        [range] => range.clone(),
        ranges => format!("{{ {} }}", ranges.join(", ")),
    }
}

fn verdict(rule: &Rule) -> String {
    match rule.verdict {
        Verdict::Pass => "accept".to_owned(),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
    }
}

#[cfg(test)]
mod tests;
