//! A nameserver of the tests: it says what it is told to say.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// What is said of a name.
#[derive(Clone, Debug)]
pub(super) struct Says {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: u32,
    /// Another name first, with this TTL.
    pub(super) alias: Option<(&'static str, u32)>,
    /// Only so many, other ones each time.
    pub(super) part: usize,
    /// Nothing is said of this family.
    pub(super) silent: Option<RecordType>,
}

/// Ends with the test's process.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, Says>,
    /// Instead of an answer to anything.
    trouble: Option<Trouble>,
    asked: HashMap<String, usize>,
    /// How often a part of a name's addresses was shown.
    shown: HashMap<String, usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Silence,
    Code(ResponseCode),
}

// === impl Says ===

impl Says {
    pub(super) fn these(addresses: &[&str], ttl: u32) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Self { addresses, ttl, alias: None, part: usize::MAX, silent: None }
    }
}

// === impl Zone ===

impl Zone {
    pub(super) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let zone = Self { port: socket.local_addr().unwrap().port(), state: Arc::default() };
        let serving = zone.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = serving.answer(&buffer[..length]) {
                    socket.send_to(&answer, peer).unwrap();
                }
            }
        });
        zone
    }

    pub(super) fn say(&self, name: &str, says: Says) {
        self.state.lock().unwrap().names.insert(name.to_owned(), says);
    }

    pub(super) fn drop_name(&self, name: &str) {
        self.state.lock().unwrap().names.remove(name);
    }

    pub(super) fn trouble(&self, trouble: Option<Trouble>) {
        self.state.lock().unwrap().trouble = trouble;
    }

    /// How often the name was asked for, in either family.
    pub(super) fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let mut state = self.state.lock().unwrap();
        *state.asked.entry(name.clone()).or_default() += 1;
        let is_v4 = query.query_type() == RecordType::A;
        let shown = state.shown.entry(name.clone()).or_default();
        *shown += usize::from(is_v4);
        let shown = *shown;
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        match (state.trouble, state.names.get(&name)) {
            (Some(Trouble::Silence), _) => return None,
            (Some(Trouble::Code(code)), _) => answer.metadata.response_code = code,
            (None, None) => answer.metadata.response_code = ResponseCode::NXDomain,
            (None, Some(says)) if says.silent == Some(query.query_type()) => return None,
            (None, Some(says)) => {
                let mut owner = query.name().clone();
                if let Some((alias, ttl)) = says.alias {
                    let alias = Name::from_ascii(alias).unwrap();
                    answer.add_answer(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(alias.clone()))));
                    owner = alias;
                }
                let of_family: Vec<_> =
                    says.addresses.iter().filter(|address| address.is_ipv4() == is_v4).collect();
                let part = says.part.min(of_family.len());
                for address in of_family.into_iter().cycle().skip(shown * part).take(part) {
                    answer.add_answer(Record::from_rdata(owner.clone(), says.ttl, RData::from(*address)));
                }
            }
        }
        Some(answer.to_vec().unwrap())
    }
}
