//! Which TLS do we speak with callers, checked: a certificate of ours, and whether callers show one.

use std::path::{Component, Path, PathBuf};

use crate::document::inbound::{ClientAuthWord, ServerTlsSpec};
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{CertificateFiles, ClientAuth, FileRef, InboundTls};
use crate::source::Source;

use super::report::Report;
use super::values;

pub(crate) fn compile(
    spec: &ServerTlsSpec,
    at: &Field,
    source: &Source,
    report: &mut Report<'_>,
) -> InboundTls {
    let certificate = CertificateFiles {
        cert_file: values::file(&spec.cert_file, &at.key("certFile"), source, report),
        key_file: values::file(&spec.key_file, &at.key("keyFile"), source, report),
    };
    let client_auth = client_auth(spec, at, source, report);
    let fingerprint = fingerprint(&certificate, &client_auth);
    InboundTls { certificate, client_auth, fingerprint }
}

/// Who names CAs of clients and says no more wants to see certificates: `required`.
fn client_auth(spec: &ServerTlsSpec, at: &Field, source: &Source, report: &mut Report<'_>) -> ClientAuth {
    let ca = spec.client_ca_file.as_ref();
    let ca = ca.map(|path| values::file(path, &at.key("clientCaFile"), source, report));
    match (ca, spec.client_auth) {
        (Some(ca), Some(ClientAuthWord::Required) | None) => ClientAuth::Required(ca),
        (Some(ca), Some(ClientAuthWord::Optional)) => ClientAuth::Optional(ca),
        (None, None) => ClientAuth::None,
        (None, Some(_)) => {
            let message = "demands a certificate, but of whom? Write `clientCaFile`";
            report.add(&at.key("clientAuth"), message);
            ClientAuth::None
        }
    }
}

fn fingerprint(certificate: &CertificateFiles, client_auth: &ClientAuth) -> [u8; 32] {
    let CertificateFiles { cert_file, key_file } = certificate;
    let hash = Fingerprint::of("inboundTls").text(&place(cert_file)).text(&place(key_file));
    match client_auth {
        ClientAuth::None => hash.text("none"),
        ClientAuth::Optional(ca) => hash.text("optional").text(&place(ca)),
        ClientAuth::Required(ca) => hash.text("required").text(&place(ca)),
    }
    .finish()
}

/// Documents of one folder that name a file alike mean the same file.
fn place(file: &FileRef) -> String {
    let folder = Path::new(&file.declared_in).parent().unwrap_or(Path::new(""));
    let path: PathBuf =
        folder.join(&file.path).components().filter(|part| *part != Component::CurDir).collect();
    path.to_string_lossy().into_owned()
}
