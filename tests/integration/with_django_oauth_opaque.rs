//! Does another authorization server's word on opaque tokens count as it should? Django OAuth Toolkit says less of a token: no
//! issuer, no type, and an audience only where one was asked for.

use std::thread;
use std::time::Duration;

use crate::support::client::{Answer, get_with};
use crate::support::django::Django;
use crate::support::issuer::{SECRET, basic};
use crate::support::policy::{self, AUDIENCE, Folder, asking, inbound_with, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

struct World {
    issuer: Django,
    proxy: Proxy,
    upstream: Upstream,
    _folder: Folder,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let (issuer, upstream) = (Django::start(SECRET), Upstream::start());
        let folder = Folder::with(&[
            ("issuer.yaml", &(issuer.issuer() + &policy::credential())),
            ("orders.yaml", &inbound_with(&usual_rules(), &asking())),
            ("client-secret", SECRET),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { issuer, proxy, upstream, _folder: folder }
    }

    fn show(&self, token: &str) -> Answer {
        get_with(self.proxy.inbound(), "/orders", token)
    }
}

#[test]
fn v26_v28_its_tokens_are_accepted_for_the_audience_that_they_were_asked_for() {
    let world = World::new();
    let token = |resource| world.issuer.token(&basic(), "orders:read", resource);
    let good = token(Some(AUDIENCE));
    world.issuer.set_delay(Duration::from_millis(300));
    thread::scope(|scope| {
        let burst: Vec<_> = (0..200).map(|_| scope.spawn(|| world.show(&good).status)).collect();
        assert!(burst.into_iter().all(|one| one.join().unwrap() == 200), "{}", world.proxy.log());
    });
    assert_eq!((world.issuer.introspections(), world.upstream.count()), (1, 200));
    world.issuer.set_delay(Duration::ZERO);
    // One that was asked for nobody in particular could have been meant for anybody.
    assert_eq!(world.show(&token(None)).reason(), "missing_claim");
    assert_eq!(world.show(&token(Some("https://elsewhere.shop"))).reason(), "wrong_audience");
    assert_eq!(
        world.show(&world.issuer.token(&basic(), "orders:write", Some(AUDIENCE))).reason(),
        "insufficient_scope"
    );
    assert_eq!(world.show("made-up").reason(), "inactive");
    let revoked = token(Some(AUDIENCE));
    world.issuer.revoke(&basic(), &revoked);
    assert_eq!(world.show(&revoked).reason(), "inactive");
}
