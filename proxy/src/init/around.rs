//! What else is there, beside which our rules would not be heard? Rules of ours by the program that is not asked for, and those
//! of others that see packets first, or keep them from being tracked, without which nothing is redirected.

use std::fs;

use super::difference::Difference;
use super::iptables::{CHAINS, jumps};
use super::nft::TABLE;
use super::plan::Family;
use super::program::{ProgramError, run};

/// What is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// Rules of ours that nobody asks for.
    pub(super) remains: Vec<Difference>,
    /// Rules of others. Whether they are in the way, those know who wrote them.
    pub(super) warnings: Vec<String>,
}

/// Who keeps the rules that are asked for. iptables comes in two kinds, which do not see each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

/// Looks around in the network namespace.
pub(super) fn look(with_nft: bool, families: &[Family]) -> Around {
    let keeper = Keeper::find(with_nft);
    let mut around = Around::default();
    match run("nft", &["--numeric-priority", "list", "ruleset"], "") {
        Ok(ruleset) => around.see_nft(&ruleset, keeper),
        Err(error) => around.miss(&error, "nftables"),
    }
    for &family in families {
        let names = fs::read_to_string(names(family)).unwrap_or_default();
        let is_ours = |table: &str| table == "nat" && keeper == Keeper::IptablesLegacy;
        for table in names.lines().filter(|table| !is_ours(table)) {
            match run(legacy(family, keeper), &["-t", table, "-S"], "") {
                Ok(lines) => around.see_legacy(legacy(family, Keeper::Nft), table, &lines),
                Err(error) => around.miss(&error, "legacy iptables"),
            }
        }
    }
    around
}

// === impl Keeper ===

impl Keeper {
    fn find(with_nft: bool) -> Self {
        if with_nft {
            return Self::Nft;
        }
        let version = run("iptables", &["-V"], "").unwrap_or_default();
        if version.contains("nf_tables") { Self::IptablesNft } else { Self::IptablesLegacy }
    }
}

// === impl Around ===

impl Around {
    /// Rules that nobody here can list.
    fn miss(&mut self, error: &ProgramError, whose: &str) {
        let warning = format!("rules of others in {whose} are not looked for: {error}");
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// As `nft list ruleset` prints it. Not its JSON: nftables 1.0.6 writes what is none for a table with flags.
    fn see_nft(&mut self, ruleset: &str, keeper: Keeper) {
        let (mut table, mut chain, mut early) = ("", "", None);
        for line in ruleset.lines() {
            let said = line.trim();
            if let Some(name) = line.strip_prefix("table ") {
                (table, chain) = (name.trim_end_matches(" {"), "");
                if table == TABLE && keeper != Keeper::Nft {
                    self.remain(&format!("table {table}"), "nft");
                }
            } else if let Some(name) = said.strip_prefix("chain ") {
                (chain, early) = (name.trim_end_matches(" {"), None);
                let is_iptables = matches!(table, "ip nat" | "ip6 nat") && CHAINS.contains(&chain);
                if is_iptables && keeper != Keeper::IptablesNft {
                    self.remain(&format!("table {table}, chain {chain}"), "iptables");
                }
            } else if said.starts_with("type ") {
                early = early_place(said);
            } else if !chain.is_empty() && !matches!(said, "" | "}") && !is_kept(table, chain, said, keeper) {
                let place = format!("table {table}, chain {chain}");
                self.see(&place, said);
                // Once for all of its rules.
                if let Some(when) = early.take() {
                    self.warnings.push(format!(
                        "{place}: sees connections {when}: what it redirects does not come to us"
                    ));
                }
            }
        }
    }

    /// A table of legacy iptables, as `-S` prints it.
    fn see_legacy(&mut self, program: &str, table: &str, lines: &str) {
        let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        let place = format!("{program} -t {table}");
        for line in lines.iter().filter(|line| line.starts_with("-A ")) {
            self.see(&place, line);
        }
        if table != "nat" {
            return;
        }
        if lines.iter().filter_map(|line| line.strip_prefix("-N ")).any(|chain| CHAINS.contains(&chain)) {
            self.remain(&place, "iptables");
        }
        let jumps: Vec<_> = jumps(&lines).collect();
        let hooked =
            |line: &&String| ["-A OUTPUT ", "-A PREROUTING "].iter().any(|hook| line.starts_with(hook));
        if let Some(line) = lines.iter().filter(hooked).find(|line| !jumps.contains(line)) {
            let warning = format!("{place}: may see connections before our rules: {line}");
            self.warnings.push(warning);
        }
    }

    /// One rule of others.
    fn see(&mut self, place: &str, rule: &str) {
        // Of those that look like words of a rule, none is in a comment that matters.
        let said = rule.split(" comment \"").next().unwrap_or_default().to_lowercase().replace('"', "");
        let says = |words: &[&str]| said.split(' ').any(|word| words.contains(&word));
        if says(&["notrack", "--notrack"]) || said.ends_with("xt target ct") {
            self.warnings
                .push(format!("{place}: connections that are not tracked are not redirected: {rule}"));
        } else if says(&["tproxy"]) {
            self.warnings.push(format!("{place}: takes connections before our rules: {rule}"));
        }
    }

    fn remain(&mut self, what: &str, backend: &str) {
        self.remains.push(Difference::Unexpected(format!(
            "{what}: rules of ours by the other program; init --backend {backend} --remove takes them away"
        )));
    }
}

/// Does a base chain translate addresses as early as we do, or earlier? When, if so.
fn early_place(place: &str) -> Option<&'static str> {
    let mut words = place.split([' ', ';']);
    let is_nat = words.by_ref().nth(1) == Some("nat");
    let is_ours = words.by_ref().nth(1).is_some_and(|hook| matches!(hook, "output" | "prerouting"));
    let priority = words.skip_while(|word| *word != "priority").nth(1)?.parse::<i32>().ok()?;
    match priority.cmp(&PRIORITY) {
        _ if !is_nat || !is_ours => None,
        std::cmp::Ordering::Less => Some("before our rules"),
        std::cmp::Ordering::Equal => Some("at the same priority as our rules, maybe before them"),
        std::cmp::Ordering::Greater => None,
    }
}

/// Is a rule ours, or compared elsewhere?
fn is_kept(table: &str, chain: &str, rule: &str, keeper: Keeper) -> bool {
    let is_nat = matches!(table, "ip nat" | "ip6 nat");
    let is_jump = CHAINS.iter().any(|chain| rule.ends_with(&format!("jump {chain}")));
    table == TABLE || is_nat && (keeper == Keeper::IptablesNft || is_jump || CHAINS.contains(&chain))
}

/// Where the kernel names the tables of legacy iptables. Whoever asks for one that is not there makes it.
fn names(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    }
}

/// The program that lists them.
fn legacy(family: Family, keeper: Keeper) -> &'static str {
    match (family, keeper) {
        (Family::V4, Keeper::IptablesLegacy) => "iptables",
        (Family::V6, Keeper::IptablesLegacy) => "ip6tables",
        (Family::V4, _) => "iptables-legacy",
        (Family::V6, _) => "ip6tables-legacy",
    }
}

/// Of our chains, by whichever program: `dstnat`.
const PRIORITY: i32 = -100;

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = r#"
table inet countersign {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta skuid 16016 counter packets 0 bytes 0 accept comment "the sidecar"
	}
}
# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain COUNTERSIGN_OUTBOUND {
		meta l4proto tcp counter packets 0 bytes 0 redirect to :5
	}

	chain OUTPUT {
		type nat hook output priority -100; policy accept;
		meta l4proto tcp counter packets 0 bytes 0 jump COUNTERSIGN_OUTBOUND
	}
}
table ip early {
	set ports {
		type inet_service
		elements = { 80 }
	}
	chain output {
		type nat hook output priority -150; policy accept;
		tcp dport 1 redirect to :2
		tcp dport 2 redirect to :3
	}
	chain same {
		type nat hook prerouting priority -100; policy accept;
		tcp dport 1 dnat to 10.0.0.1
	}
	chain late {
		type nat hook output priority 0; policy accept;
		tcp dport 1 redirect to :2
	}
	chain empty {
		type nat hook output priority -200; policy accept;
	}
	chain source {
		type nat hook postrouting priority -100; policy accept;
		masquerade
	}
}
table inet raw {
	chain pre {
		type filter hook prerouting priority -300; policy accept;
		tcp dport 5 notrack
		tcp dport 6 accept comment "no notrack here"
		meta l4proto tcp xt target "TPROXY"
		meta l4proto tcp xt target CT
	}
}
"#;

    fn seen(keeper: Keeper) -> (String, String) {
        let mut around = Around::default();
        around.see_nft(RULESET, keeper);
        let remains: Vec<_> = around.remains.iter().map(ToString::to_string).collect();
        (remains.join("\n"), around.warnings.join("\n"))
    }

    #[test]
    fn rules_of_ours_by_the_other_program_are_found() {
        let (nft, iptables) = ("unexpected: table inet countersign: ", "chain COUNTERSIGN_OUTBOUND: ");
        for (keeper, finds_nft, finds_iptables) in [
            (Keeper::Nft, false, true),
            (Keeper::IptablesNft, true, false),
            (Keeper::IptablesLegacy, true, true),
        ] {
            let (remains, _) = seen(keeper);
            assert_eq!(
                (remains.contains(nft), remains.contains(iptables)),
                (finds_nft, finds_iptables),
                "{remains}"
            );
        }
    }

    #[test]
    fn others_that_come_first_are_told_of_and_no_more() {
        for keeper in [Keeper::Nft, Keeper::IptablesNft, Keeper::IptablesLegacy] {
            let (_, warnings) = seen(keeper);
            let begin = [
                "table ip early, chain output: sees connections before our rules",
                "table ip early, chain same: sees connections at the same priority",
                "table inet raw, chain pre: connections that are not tracked are not redirected: tcp dport 5 notrack",
                "table inet raw, chain pre: takes connections before our rules: meta l4proto tcp xt target",
                "table inet raw, chain pre: connections that are not tracked are not redirected: meta l4proto tcp xt",
            ];
            assert_eq!(warnings.lines().count(), begin.len(), "{warnings}");
            assert!(
                warnings.lines().zip(begin).all(|(warning, begin)| warning.starts_with(begin)),
                "{warnings}"
            );
        }
    }

    #[test]
    fn legacy_tables_are_looked_at() {
        let mut around = Around::default();
        around.see_legacy("iptables-legacy", "raw", "-P OUTPUT ACCEPT\n-A OUTPUT -p tcp -j CT --notrack");
        around.see_legacy(
            "iptables-legacy",
            "nat",
            "-N OTHERS\n-A OTHERS -j RETURN\n-A POSTROUTING -j MASQUERADE",
        );
        assert_eq!(around.warnings.len(), 1, "{around:?}");
        assert!(around.warnings[0].starts_with("iptables-legacy -t raw: connections that are not tracked"));
        let ours = "-N COUNTERSIGN_OUTBOUND\n-A OUTPUT -p tcp -j COUNTERSIGN_OUTBOUND\n-A OUTPUT -j OTHERS";
        around.see_legacy("iptables-legacy", "nat", ours);
        assert_eq!((around.remains.len(), around.warnings.len()), (1, 2), "{around:?}");
        assert!(around.warnings[1].ends_with("before our rules: -A OUTPUT -j OTHERS"), "{around:?}");
    }
}
