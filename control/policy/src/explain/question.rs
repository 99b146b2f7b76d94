//! What would be decided, and why? A request that somebody describes, put to the policy of a workload that runs nowhere yet.

use std::net::IpAddr;

use http::{HeaderMap, Method};
use serde_json::{Map, Value};

use super::condition::Condition;
use super::words::{clip, list};
use super::{Explanation, Requested, Unselected};
use crate::asked::{Asked, CERTIFICATE, Shown};
use crate::compile::Unmet;
use crate::compile::inbound::CheckedInbound;
use crate::documents::{Checked, Documents};
use crate::headers::Underscores;
use crate::inbound::PortPolicy;
use crate::problem::Problem;
use crate::reason::Reason;
use crate::request::{Binding, Peer};
use crate::snapshot::{Issuer, IssuerId};
use crate::workload::Workload;

/// Who asks what of whom.
#[derive(Clone, Debug)]
pub struct Question {
    pub workload: Workload,
    /// Of the application.
    pub port: u16,
    pub method: Method,
    /// Without a query.
    pub path: String,
    /// In normal form.
    pub host: String,
    pub grpc: bool,
    /// As they are sent.
    pub headers: HeaderMap,
    /// What the sidecar does with such fields.
    pub underscores: Underscores,
    pub source: IpAddr,
    /// What the token says, as its issuer signs it. Times are not judged, and what it is bound to the caller holds.
    pub claims: Option<Map<String, Value>>,
    /// The SPIFFE ID of the caller's certificate.
    pub peer: Option<String>,
}

// === impl Documents ===

impl Documents {
    /// What is decided about this request, and why. Fails where the documents cannot be compiled for this workload.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Vec<Problem>> {
        let snapshot = self.compile(&question.workload)?;
        let Question { workload, port, .. } = question;
        let unselected = self.inbound.iter().filter_map(|policy| why_not_selected(policy, workload, *port));
        let explanation = match snapshot.inbound(*port) {
            Some(port) => self.explain_at(port, &snapshot.issuers, question),
            None => Explanation::refused(question.requested(), Reason::NoRule),
        };
        let peer = explanation.peer.or_else(|| question.peer.as_deref().map(clip));
        Ok(Explanation { unselected: unselected.collect(), peer, ..explanation })
    }

    fn explain_at(&self, port: &PortPolicy, issuers: &[Issuer], question: &Question) -> Explanation {
        let (shown, flaw) = match &question.claims {
            None => (Shown::Nothing, None),
            Some(claims) => token(port, issuers, claims),
        };
        let asked = question.asked(shown);
        match asked.judged(port) {
            Err(reason) => Explanation::refused(question.requested(), reason),
            Ok(judged) => {
                let explanation = port.explain(&judged.request(asked.presented(port)));
                Explanation { flaw: flaw.filter(|_| explanation.is_about_token()), ..explanation }
            }
        }
    }
}

/// Through the profile of the issuer whose claims they are, as the proxy reads them; and what is wrong with them.
fn token(port: &PortPolicy, issuers: &[Issuer], claims: &Map<String, Value>) -> (Shown, Option<Condition>) {
    let issuer = match port.issuer_of(claims, issuers) {
        Ok(IssuerId(place)) => issuers.get(place).ok_or(Reason::Internal),
        Err(reason) => Err(reason),
    };
    let issuer = match issuer {
        Ok(issuer) => issuer,
        Err(reason) => return (Shown::Rejected(reason), Some(port.issuer_flaw(claims))),
    };
    match issuer.profile.token(&issuer.issuer, claims.clone()) {
        Ok(token) => (Shown::Verified(Box::new(token)), None),
        Err(reason) => (Shown::Rejected(reason), issuer.flaw(reason, claims)),
    }
}

/// The first thing that keeps a policy from selecting this workload and port.
fn why_not_selected(policy: &Checked<CheckedInbound>, workload: &Workload, port: u16) -> Option<Unselected> {
    let condition = match (policy.value.selector.unmet(workload), &policy.value.ports) {
        (Some(Unmet::Namespace(namespace)), _) => {
            Condition::new("metadata.namespace", namespace, &*workload.namespace)
        }
        (Some(Unmet::Label(key, value)), _) => {
            let found = workload.labels.get(key).map_or("absent", String::as_str);
            Condition::new(format!("spec.workloads.labels.{key}"), value, found)
        }
        (None, Some(ports)) if !ports.contains(&port) => {
            Condition::new("spec.ports", list(ports.iter().map(ToString::to_string)), port.to_string())
        }
        (None, _) => return None,
    };
    let name = format!("{}/{}", policy.name.namespace, policy.name.name);
    Some(Unselected { policy: name, file: clip(&policy.source.file), condition })
}

// === impl Question ===

impl Question {
    fn requested(&self) -> Requested {
        Requested {
            method: clip(self.method.as_str()),
            path: clip(&self.path),
            host: clip(&self.host),
            grpc: self.grpc,
            source: self.source,
        }
    }

    fn asked(&self, shown: Shown) -> Asked {
        let bound = match &shown {
            Shown::Verified(token) => match token.binding {
                Binding::Certificate(thumbprint) => Some(thumbprint),
                Binding::None | Binding::Key(_) => None,
            },
            Shown::Nothing | Shown::Rejected(_) => None,
        };
        let peer = match (&self.peer, bound) {
            (None, None) => None,
            (id, thumbprint) => Some(Peer { id: id.clone(), thumbprint: thumbprint.unwrap_or(CERTIFICATE) }),
        };
        Asked {
            method: self.method.to_string(),
            path: self.path.clone(),
            host: self.host.clone(),
            grpc: self.grpc,
            headers: self.headers.clone(),
            underscores: self.underscores,
            source: self.source,
            shown,
            peer,
        }
    }
}
