//! What holds for one workload? The documents that select it, put together into its snapshot.

mod inbound;
mod outbound;
mod resource;
pub(crate) mod shadowed;

use crate::compile::Selector;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::problem::Problem;
use crate::snapshot::{Credential, CredentialId, Introspection, IntrospectionId, Issuer, IssuerId, Snapshot};
use crate::workload::Workload;

pub(crate) fn snapshot(
    documents: &Documents,
    workload: &Workload,
    version: String,
) -> Result<Snapshot, Vec<Problem>> {
    let inbound: Vec<_> =
        documents.inbound.iter().filter(|policy| policy.value.selector.selects(workload)).collect();
    let outbound: Vec<_> =
        documents.outbound.iter().filter(|policy| policy.value.selector.selects(workload)).collect();

    let mut parts = Parts::new(documents, workload);
    let (inbound, rules) = inbound::assemble(&inbound, &mut parts);
    let accepted_issuers = parts.issuers.all.len();
    let (outbound, requests) = outbound::assemble(&outbound, &mut parts);
    if !parts.problems.is_empty() {
        return Err(parts.problems);
    }
    let Parts { issuers, credentials, introspections, .. } = parts;
    Ok(Snapshot {
        version,
        workload: workload.clone(),
        issuers: issuers.all,
        accepted_issuers,
        credentials: credentials.all,
        token_requests: requests.tokens,
        exchanges: requests.exchanges,
        introspections,
        rules,
        inbound,
        outbound,
    })
}

/// Conflicts between policies that select the same workloads by the same words, or one all that the other does, so whoever
/// the workload is.
pub(crate) fn certain_conflicts(documents: &Documents) -> Vec<Problem> {
    let outbound = groups(&documents.outbound, |policy| &policy.selector);
    let inbound = groups(&documents.inbound, |policy| &policy.selector);
    let outbound = outbound.iter().flat_map(|same| outbound::conflicts(same));
    let inbound = inbound.iter().flat_map(|same| inbound::conflicts(same));
    outbound.chain(inbound).chain(shadowed::always(documents)).collect()
}

/// Policies that select just the same workloads, together.
fn groups<T>(policies: &[Checked<T>], selector: impl Fn(&T) -> &Selector) -> Vec<Vec<&Checked<T>>> {
    let mut groups = Vec::new();
    let mut rest: Vec<_> = policies.iter().collect();
    while let Some(first) = rest.first().copied() {
        let (same, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|policy| selector(&policy.value).is_same(selector(&first.value)));
        groups.push(same);
        rest = others;
    }
    groups
}

/// What the policies refer to, numbered as it is referred to.
struct Parts<'d> {
    documents: &'d Documents,
    workload: &'d Workload,
    issuers: Gathered<Issuer>,
    credentials: Gathered<Credential>,
    introspections: Vec<Introspection>,
    problems: Vec<Problem>,
}

/// Things in the order of their numbers, and the place among the documents of each.
struct Gathered<T> {
    all: Vec<T>,
    places: Vec<usize>,
}

// === impl Parts ===

impl<'d> Parts<'d> {
    fn new(documents: &'d Documents, workload: &'d Workload) -> Self {
        let (issuers, credentials) = (Gathered::new(), Gathered::new());
        Self { documents, workload, issuers, credentials, introspections: Vec::new(), problems: Vec::new() }
    }

    /// The issuer at this place among the documents.
    fn issuer(&mut self, place: usize) -> Option<IssuerId> {
        if let Some(number) = self.issuers.number(place) {
            return Some(IssuerId(number));
        }
        let issuer = self.documents.issuers.get(place)?;
        Some(IssuerId(self.issuers.add(place, issuer.value.clone())))
    }

    /// The credential at this place among the documents. `None` where this workload can have none, which is a problem.
    fn credential(&mut self, place: usize) -> Option<CredentialId> {
        if let Some(number) = self.credentials.number(place) {
            return Some(CredentialId(number));
        }
        let credential = self.documents.credentials.get(place)?;
        let issuer = self.issuer(credential.value.issuer)?;
        let name = format!("{}/{}", credential.name.namespace, credential.name.name);
        match credential.value.fill(name, issuer, self.issuers.all.get(issuer.0)?, self.workload) {
            Ok(filled) => Some(CredentialId(self.credentials.add(place, filled))),
            Err(message) => {
                let mut report = Report::new(&credential.source, &credential.name);
                report.add(&Field::parse("spec.clientId"), message);
                // Every rule that asks for a token comes by here; once is enough.
                let new =
                    report.into_problems().into_iter().filter(|problem| !self.problems.contains(problem));
                let new: Vec<Problem> = new.collect();
                self.problems.extend(new);
                None
            }
        }
    }

    /// The question to the issuer of a credential, at this place among the documents, whether a token is active.
    fn introspection(&mut self, place: usize) -> Option<IntrospectionId> {
        let CredentialId(number) = self.credential(place)?;
        let known = self.introspections.iter().position(|known| known.credential.0 == number);
        if let Some(number) = known {
            return Some(IntrospectionId(number));
        }
        let credential = self.credentials.all.get(number)?;
        let issuer = self.issuers.all.get(credential.issuer.0)?;
        let hash = Fingerprint::of("introspection").bytes(&issuer.fingerprint).bytes(&credential.fingerprint);
        self.introspections.push(Introspection {
            issuer: credential.issuer,
            credential: CredentialId(number),
            key: hash.finish(),
        });
        Some(IntrospectionId(self.introspections.len() - 1))
    }
}

// === impl Gathered ===

impl<T> Gathered<T> {
    fn new() -> Self {
        Self { all: Vec::new(), places: Vec::new() }
    }

    fn number(&self, place: usize) -> Option<usize> {
        self.places.iter().position(|known| *known == place)
    }

    fn add(&mut self, place: usize, thing: T) -> usize {
        self.all.push(thing);
        self.places.push(place);
        self.all.len() - 1
    }
}
