//! Are the recipes for issuers right? Their policies pass `check`, their reasons exist, and the README leads to them.

use std::collections::BTreeSet;
use std::fs;

use countersign_policy::Reason;

use crate::support::control::check;
use crate::support::policy::Folder;
use crate::support::root;

#[test]
fn the_policies_of_the_recipes_are_in_order_and_their_reasons_exist() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    for name in ["keycloak", "entra"] {
        let text = fs::read_to_string(root().join(format!("deploy/recipes/{name}.md"))).expect("a recipe");
        assert!(readme.contains(&format!("(deploy/recipes/{name}.md)")), "the README does not name {name}");
        let blocks: Vec<_> =
            text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert_eq!(blocks.len(), 1, "{name}");
        let folder = Folder::with(&[("recipe.yaml", blocks[0])]);
        let done = check(&[folder.path()]);
        assert_eq!(done.code, Some(0), "{name}: {}{}", done.stdout, done.stderr);
        let rows: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
        assert!(rows.len() >= 8, "{name}");
        for (reason, _) in rows {
            assert!(reasons.contains(reason), "{name}: {reason}");
        }
    }
}
