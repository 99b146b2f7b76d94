//! How is the plan said to iptables, where nftables is missing? Two chains of our own in the table `nat` of each family.
//!
//! Each family is replaced by one transaction of `iptables-restore --noflush`; the two are not one. IPv6 goes first, and back
//! to what it was if IPv4 then fails, so a pod has both or neither, but for a moment between them.

use std::net::IpAddr;

use super::difference::{Difference, between};
use super::plan::{Family, Match, Plan, Rule, Verdict};
use super::program::{ProgramError, run};
use super::values::{Ranges, from_number};

const OUTBOUND: &str = "COUNTERSIGN_OUTBOUND";
const INBOUND: &str = "COUNTERSIGN_INBOUND";
/// Our chains.
pub(super) const CHAINS: [&str; 2] = [OUTBOUND, INBOUND];
/// What leads into our chains, as `iptables -S` says it.
const JUMPS: [(&str, &str); 2] =
    [("OUTPUT", "-p tcp -j COUNTERSIGN_OUTBOUND"), ("PREROUTING", "-p tcp -j COUNTERSIGN_INBOUND")];
/// Others that hold the lock of xtables have so long.
const WAIT: &str = "--wait=10";

/// Installs the plan for each of these families, or for none.
pub(super) fn install(plan: &Plan, families: &[Family]) -> Result<(), ProgramError> {
    replace(families, |family, before| script(&rules(plan, family), before))
}

/// Takes it all away.
pub(super) fn remove(families: &[Family]) -> Result<(), ProgramError> {
    replace(families, |_, before| removal(before))
}

/// What would be installed where there is nothing yet.
pub(super) fn printed(plan: &Plan, families: &[Family]) -> String {
    let script = |&family: &Family| format!("# {}\n{}", restore(family), script(&rules(plan, family), &[]));
    families.iter().map(script).collect()
}

/// What would take away all that may be there.
pub(super) fn printed_removal(families: &[Family]) -> String {
    let mut all: Vec<String> = JUMPS.iter().map(|(hook, jump)| format!("-A {hook} {jump}")).collect();
    all.extend(CHAINS.map(|chain| format!("-N {chain}")));
    families.iter().map(|&family| format!("# {}\n{}", restore(family), removal(&all))).collect()
}

/// What is installed, against the plan.
pub(super) fn check(plan: &Plan, families: &[Family]) -> Result<Vec<Difference>, ProgramError> {
    let mut differences = Vec::new();
    for &family in families {
        let (asked, found) = (installed(&rules(plan, family)), in_order(&listed(family)?));
        let named = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().map(|line| format!("{}: {}", list(family), canonical(&line))).collect()
        };
        differences.extend(between(&named(asked), &named(found)));
    }
    Ok(differences)
}

/// Replaces one family after the other; when one fails, those before it go back.
fn replace(families: &[Family], script: impl Fn(Family, &[String]) -> String) -> Result<(), ProgramError> {
    // All are read before the first is touched: what cannot even be listed fails here.
    let before = families.iter().map(|&family| Ok((family, listed(family)?)));
    let before = before.collect::<Result<Vec<_>, ProgramError>>()?;
    for (done, (family, lines)) in before.iter().enumerate() {
        let Err(error) = apply(*family, &script(*family, lines)) else { continue };
        for (family, lines) in before.iter().take(done) {
            let back = back(lines, &listed(*family)?);
            apply(*family, &back).map_err(|second| ProgramError::Failed {
                program: restore(*family),
                message: format!("could not go back after {error}: {second}; run init --remove"),
            })?;
        }
        return Err(error);
    }
    Ok(())
}

fn apply(family: Family, script: &str) -> Result<(), ProgramError> {
    if script.is_empty() {
        return Ok(());
    }
    run(restore(family), &["--noflush", WAIT], script).map(|_| ())
}

fn restore(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

fn list(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

// === what is there ===

/// The table `nat`, as `-S` prints it.
fn listed(family: Family) -> Result<Vec<String>, ProgramError> {
    let lines = run(list(family), &[WAIT, "-t", "nat", "-S"], "")?;
    Ok(lines.lines().map(str::to_owned).collect())
}

/// The rules that lead into our chains, wherever they stand.
pub(super) fn jumps(lines: &[String]) -> impl Iterator<Item = &String> {
    lines.iter().filter(|line| {
        let said = unquoted(line);
        let target = said.split(" -j ").nth(1).or_else(|| said.split(" -g ").nth(1));
        line.starts_with("-A ") && target.is_some_and(|target| CHAINS.contains(&target))
    })
}

/// A rule without what is quoted in it: comments of others may say anything.
fn unquoted(line: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let outside = |c: &char| {
        let was = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        !was && !quoted
    };
    line.chars().filter(outside).collect()
}

/// A rule with its addresses as we write them: some say `::1.2.3.4` where others say `::102:304`.
fn canonical(line: &str) -> String {
    let canonical = |word: &str| {
        let (address, length) = word.split_once('/')?;
        Some(format!("{}/{length}", address.parse::<IpAddr>().ok()?))
    };
    let words = line.split(' ').map(|word| canonical(word).unwrap_or_else(|| word.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

/// The rules within a chain.
fn within<'a>(lines: &'a [String], chain: &str) -> impl Iterator<Item = &'a String> {
    let start = format!("-A {chain} ");
    lines.iter().filter(move |line| line.starts_with(&start))
}

fn has_chain(lines: &[String], chain: &str) -> bool {
    lines.iter().any(|line| line.strip_prefix("-N ") == Some(chain))
}

/// What concerns us of what is there: what the hooks begin with, other rules that lead to us, our chains.
fn in_order(lines: &[String]) -> Vec<String> {
    let mut ours = Vec::new();
    for (hook, _) in JUMPS {
        ours.extend(within(lines, hook).next().cloned());
        let further: Vec<String> = within(lines, hook).skip(1).cloned().collect();
        ours.extend(jumps(&further).cloned());
    }
    for chain in CHAINS {
        ours.extend(lines.iter().filter(|line| line.strip_prefix("-N ") == Some(chain)).cloned());
        ours.extend(within(lines, chain).cloned());
    }
    ours
}

/// The same, as it should be.
fn installed(rules: &[(&str, Vec<String>); 2]) -> Vec<String> {
    let mut lines: Vec<_> = JUMPS.iter().map(|(hook, jump)| format!("-A {hook} {jump}")).collect();
    for (chain, rules) in rules {
        lines.push(format!("-N {chain}"));
        lines.extend(rules.iter().cloned());
    }
    lines
}

// === what to do ===

/// Fills our chains anew, and puts the jumps to them first.
fn script(rules: &[(&str, Vec<String>); 2], before: &[String]) -> String {
    let mut script = "*nat\n".to_owned();
    // A chain that is named here is emptied.
    script.extend(rules.iter().map(|(chain, _)| format!(":{chain} - [0:0]\n")));
    for rule in rules.iter().flat_map(|(_, rules)| rules) {
        script.extend([rule, "\n"]);
    }
    script.push_str(&without_jumps(before));
    script.extend(JUMPS.iter().map(|(hook, jump)| format!("-I {hook} 1 {jump}\n")));
    script + "COMMIT\n"
}

/// Empty if there is nothing to take away.
fn removal(before: &[String]) -> String {
    let chains: Vec<_> = CHAINS.into_iter().filter(|chain| has_chain(before, chain)).collect();
    if chains.is_empty() {
        return String::new();
    }
    let mut script = "*nat\n".to_owned() + &without_jumps(before);
    script.extend(chains.iter().map(|chain| format!("-F {chain}\n")));
    script.extend(chains.iter().map(|chain| format!("-X {chain}\n")));
    script + "COMMIT\n"
}

/// From what is there now to what was there before.
fn back(before: &[String], now: &[String]) -> String {
    if !has_chain(before, OUTBOUND) && !has_chain(before, INBOUND) {
        return removal(now);
    }
    let rules = CHAINS.map(|chain| (chain, within(before, chain).cloned().collect()));
    script(&rules, now)
}

fn without_jumps(lines: &[String]) -> String {
    jumps(lines).map(|line| format!("{}\n", line.replacen("-A", "-D", 1))).collect()
}

// === rules ===

/// Both chains in one family, each rule as `-S` prints it.
fn rules(plan: &Plan, family: Family) -> [(&'static str, Vec<String>); 2] {
    let lines = |chain: &'static str, rules: &[Rule]| {
        let lines = rules.iter().flat_map(|rule| alternatives(rule, family));
        (chain, lines.map(|line| format!("-A {chain}{line}")).collect())
    };
    [lines(OUTBOUND, &plan.outbound), lines(INBOUND, &plan.inbound)]
}

/// A rule of iptables knows one range alone: one for each. None for a rule of the other family.
fn alternatives(rule: &Rule, family: Family) -> Vec<String> {
    // In the order in which `-S` prints them: destination, interface, protocol, further matches.
    let (mut destinations, mut interface, mut ports) = (vec![String::new()], "", vec![String::new()]);
    let mut further = String::new();
    for matched in &rule.matches {
        match matched {
            Match::To(of, _) if *of != family => return Vec::new(),
            Match::To(_, ranges) => destinations = prefixes(ranges, family),
            Match::ToSelf => interface = " -o lo",
            Match::Tcp => ports = vec![" -p tcp".to_owned()],
            Match::Port(ranges) => ports = ranges.iter().map(port).collect(),
            Match::User(id) => further = format!(" -m owner --uid-owner {id}"),
            Match::Group(id) => further = format!(" -m owner --gid-owner {id}"),
            Match::Mark(mark) => further = format!(" -m mark --mark {mark:#x}"),
            Match::NotLocal => further = " -m addrtype ! --dst-type LOCAL".to_owned(),
        }
    }
    let verdict = match rule.verdict {
        Verdict::Pass => " -j RETURN".to_owned(),
        Verdict::Redirect(port) => format!(" -j REDIRECT --to-ports {port}"),
    };
    let mut lines = Vec::new();
    for destination in &destinations {
        lines.extend(ports.iter().map(|port| format!("{destination}{interface}{port}{further}{verdict}")));
    }
    lines
}

fn port((first, last): (u128, u128)) -> String {
    let ports = if first == last { first.to_string() } else { format!("{first}:{last}") };
    format!(" -p tcp -m tcp --dport {ports}")
}

/// The fewest networks that make up the ranges.
fn prefixes(ranges: &Ranges, family: Family) -> Vec<String> {
    let bits: u32 = if family == Family::V4 { 32 } else { 128 };
    let mut prefixes = Vec::new();
    for (mut first, last) in ranges.iter() {
        loop {
            // The largest network that begins here and does not go beyond the end.
            let mut size = first.trailing_zeros().min(bits);
            let end = |size: u32| first | 1_u128.checked_shl(size).map_or(u128::MAX, |size| size - 1);
            while end(size) > last {
                size -= 1;
            }
            prefixes.push(format!(" -d {}/{}", from_number(first, bits == 32), bits - size));
            match end(size).checked_add(1) {
                Some(next) if next <= last => first = next,
                _ => break,
            }
        }
    }
    prefixes
}

#[cfg(test)]
mod tests;
