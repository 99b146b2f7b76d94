//! What may whom see? One version of all policy, split into a bundle per join token.

use bytes::Bytes;
use countersign_policy::{Bundle, Documents, Problem, Workload};

use crate::join::{Member, TokenHash};

/// Everything that sidecars may ask for, of one version.
#[derive(Debug)]
pub(crate) struct Published {
    /// Hash of all documents.
    pub(crate) version: String,
    entries: Vec<Entry>,
}

/// What one join token shows.
#[derive(Debug)]
pub(crate) struct Entry {
    token: TokenHash,
    pub(crate) workload: Workload,
    /// None: this workload was added to the join tokens, and policy does not compile for it.
    pub(crate) bundle: Option<Served>,
}

/// A bundle as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) version: String,
    pub(crate) json: Bytes,
}

// === impl Published ===

impl Published {
    /// The entry of this token. All are compared, each in constant time.
    pub(crate) fn find(&self, token: &TokenHash) -> Option<&Entry> {
        self.entries
            .iter()
            .fold(None, |found, entry| if entry.token.same(token) { Some(entry) } else { found })
    }

    /// A bundle for each member, or what keeps policy from compiling for any of them.
    pub(crate) fn new(documents: &Documents, members: &[Member]) -> Result<Self, Vec<Problem>> {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for member in members {
            match serve(documents, &member.workload) {
                Ok(served) => entries.push(Entry::new(member, Some(served))),
                Err(found) => {
                    problems.extend(
                        found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>(),
                    );
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { version: documents.version().to_owned(), entries })
    }

    /// The same for members that are new: those for whom policy does not compile get none, all others do.
    pub(crate) fn lenient(documents: &Documents, members: &[Member]) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut entry = |member: &Member| {
            let served = serve(documents, &member.workload).map_err(|found| {
                let Workload { namespace, name, .. } = &member.workload;
                problems.extend(
                    found.iter().map(|problem| format!("for workload {namespace}/{name}: {problem}")),
                );
            });
            Entry::new(member, served.ok())
        };
        let entries = members.iter().map(&mut entry).collect();
        (Self { version: documents.version().to_owned(), entries }, problems)
    }
}

impl Entry {
    fn new(member: &Member, bundle: Option<Served>) -> Self {
        Self { token: member.token.clone(), workload: member.workload.clone(), bundle }
    }
}

/// What this workload may see. It is compiled here first, so that no sidecar is sent what it would reject.
fn serve(documents: &Documents, workload: &Workload) -> Result<Served, Vec<Problem>> {
    let version = documents.compile(workload)?.version;
    let bundle = Bundle { version, workload: workload.clone(), documents: documents.select(workload) };
    let json = serde_json::to_vec(&bundle).map_err(|error| {
        vec![Problem::of_file("bundle", &format!("internal error: cannot be written: {error}"))]
    })?;
    Ok(Served { version: bundle.version, json: json.into() })
}
