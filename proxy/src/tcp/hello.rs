//! Whom is TLS meant for? The server name in a ClientHello (RFC 6066 §3) that somebody else is going to answer.

use countersign_policy::host;
use rustls::server::Acceptor;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not all of it is here.
    Incomplete,
    /// A name in normal form.
    Name(String),
    /// It names nobody, or is no ClientHello that can be read in one way only.
    Nameless,
}

/// Does a connection begin with TLS (RFC 8446 §5.1)? One byte tells: a record of type handshake.
pub fn is_tls(first: u8) -> bool {
    first == HANDSHAKE
}

/// Reads as far as the name; rustls' own reader, which a server would answer the same bytes with.
pub fn read(mut said: &[u8]) -> Hello {
    if said.len() > MAX_HELLO {
        return Hello::Nameless;
    }
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(None) if said.is_empty() => return Hello::Incomplete,
            Ok(None) => match acceptor.read_tls(&mut said) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Hello::Nameless,
            },
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().and_then(host::normalize);
                return match name {
                    Some((name, None)) => Hello::Name(name.into_owned()),
                    _ => Hello::Nameless,
                };
            }
            Err(_) => return Hello::Nameless,
        }
    }
}

const HANDSHAKE: u8 = 0x16;
/// Those of browsers with keys against quantum computers are under 4 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What a client says first.
    fn hello(name: &str, alpn: usize) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = (0..alpn).map(|i| format!("{i:0>200}").into_bytes()).collect();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).unwrap();
        }
        said
    }

    /// The same handshake in records of so many bytes.
    fn in_records(said: &[u8], size: usize) -> Vec<u8> {
        let (header, body) = said.split_at(5);
        let record =
            |part: &[u8]| [&header[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        body.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut() {
        let said = hello("Orders.Shop.Example", 0);
        assert!(is_tls(said[0]));
        assert_eq!(read(&said), Hello::Name("orders.shop.example".to_owned()));
        for end in 0..said.len() {
            assert_eq!(read(&said[..end]), Hello::Incomplete, "{end} of {}", said.len());
        }
        for size in [1, 7, 100] {
            let cut = in_records(&said, size);
            assert_eq!(read(&cut), Hello::Name("orders.shop.example".to_owned()), "records of {size}");
            assert_eq!(read(&cut[..cut.len() - 1]), Hello::Incomplete);
        }
        assert_eq!(read(&hello("orders", 40)), Hello::Name("orders".to_owned()), "8 KiB");
    }

    #[test]
    fn who_names_nobody_has_no_name() {
        assert_eq!(read(&hello("192.0.2.1", 0)), Hello::Nameless);
        assert_eq!(read(&hello("orders", 100)), Hello::Nameless, "larger than any in use");
        for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16; 64], &[0x16, 3, 1, 0, 4, 2, 0, 0, 0]] {
            assert_eq!(read(said), Hello::Nameless, "{said:?}");
        }
    }

    #[test]
    fn a_hello_that_was_tampered_with_has_no_name_but_what_is_written_in_it() {
        let said = hello("orders.shop.example", 0);
        for place in 0..said.len() {
            for bit in 0..8 {
                let mut other = said.clone();
                other[place] ^= 1 << bit;
                if let Hello::Name(name) = read(&other) {
                    // A shorter one, where it is its length that was changed: a server reads the same.
                    let differ = name.bytes().zip("orders.shop.example".bytes()).filter(|(a, b)| a != b);
                    let most = usize::from(name.len() == 19);
                    assert!(name.len() <= 19 && differ.count() <= most, "{name}");
                }
            }
        }
    }
}
