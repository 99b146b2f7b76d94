//! Who showed this certificate? The one name that a rule can ask for, and the hash that tokens are bound to.

use countersign_policy::request::Peer;
use countersign_policy::spiffe;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::certificate::thumbprint;

/// The peer whose certificate TLS has verified.
pub(crate) fn of(certificate: &CertificateDer<'_>) -> Peer {
    Peer { id: id(certificate), thumbprint: thumbprint(certificate) }
}

/// The SPIFFE ID: the only URI among the subject alternative names, and one of a workload (SPIFFE X.509-SVID §2, §3.1; security
/// IN-25). No other name stands in for it. Read by what has verified the certificate.
fn id(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut uris = certificate.valid_uri_names();
    let id = uris.next().filter(|id| spiffe::is_id(id) && spiffe::has_path(id))?;
    uris.next().is_none().then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const ID: &str = "spiffe://td/ns/shop/sa/a";

    fn peer(names: &[SanType]) -> Peer {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, ID);
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().unwrap();
        of(params.self_signed(&key).unwrap().der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn in_25_a_peer_has_one_name_or_none() {
        assert_eq!(peer(&[uri(ID)]).id.as_deref(), Some(ID));
        assert_eq!(
            peer(&[dns("a.test"), uri(ID)]).id.as_deref(),
            Some(ID),
            "other kinds of names do not count"
        );
        for names in [
            &[][..],
            &[dns("a.test")],
            &[uri(ID), uri(ID)],
            &[uri(ID), uri("spiffe://td/b")],
            &[uri(ID), uri("https://a.test")],
            &[uri("https://a.test"), uri(ID)],
            &[uri("https://a.test")],
            &[uri("spiffe://td")],
            &[uri("spiffe://TD/a")],
            &[uri("spiffe://td/a/")],
            &[uri("spiffe://td/a?b")],
            &[uri("")],
            &[SanType::Rfc822Name(ID.try_into().unwrap())],
        ] {
            assert_eq!(peer(names).id, None, "{names:?}");
        }
    }

    #[test]
    fn in_25_what_is_no_certificate_has_no_name() {
        for bytes in [&b""[..], b"0", &[0x30, 0x03, 0x02, 0x01, 0x00], &[0xff; 300]] {
            assert_eq!(of(&CertificateDer::from(bytes)).id, None);
        }
    }
}
