//! A condition in CEL. Whatever it is, it is checked and evaluated within its bounds, and what is refused says why.

use countersign_policy::condition;

/// The text of a condition, which is evaluated on a fixed request, with claims and without.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let checked = condition::check(text);
    assert_eq!(checked, condition::check(text), "checked twice");
    if let Err(problem) = checked {
        assert!(!problem.is_empty());
    }
}
