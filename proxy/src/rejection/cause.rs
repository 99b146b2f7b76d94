//! What stood in the way? The error types of RFC 9209 that answers of ours name in `Proxy-Status`: what they call a failure on the
//! way to the upstream, and what a refusal of ours.

use std::io;

use countersign_policy::Reason;
use rustix::io::Errno;

/// The value of `Proxy-Status` that says this error: a list of one member, whose name and parameter are tokens (RFC 9651 §3.1).
macro_rules! status {
    ($error:literal) => {
        concat!("countersign; error=", $error)
    };
}

/// Declares the causes once: variant, error type, the reason that an answer has, one sentence for the person who reads it.
macro_rules! causes {
    ($($variant:ident $word:literal $reason:ident $title:literal;)*) => {
        /// What went wrong on the way to the upstream of a request that may pass. It names no host, address or certificate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($variant,)* }

        impl Cause {
            /// Every cause, in the order of RFC 9209 §2.3.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)*];

            /// The error type (RFC 9209 §2.3).
            pub fn as_str(self) -> &'static str {
                match self { $(Cause::$variant => $word,)* }
            }

            /// The value of `Proxy-Status`.
            pub fn proxy_status(self) -> &'static str {
                match self { $(Cause::$variant => status!($word),)* }
            }

            /// What the request is refused for.
            pub fn reason(self) -> Reason {
                match self { $(Cause::$variant => Reason::$reason,)* }
            }

            /// What it means, in one sentence.
            pub fn title(self) -> &'static str {
                match self { $(Cause::$variant => $title,)* }
            }
        }
    };
}

causes! {
    DnsTimeout "dns_timeout" UpstreamTimeout "No nameserver has answered in time";
    DnsError "dns_error" UpstreamUnreachable "The name has no address, or nameservers fail";
    DestinationUnavailable "destination_unavailable" UpstreamUnreachable "The upstream takes no requests now";
    DestinationIpProhibited "destination_ip_prohibited" UpstreamUnreachable "Connections to its address are not permitted";
    DestinationIpUnroutable "destination_ip_unroutable" UpstreamUnreachable "There is no route to its address";
    ConnectionRefused "connection_refused" UpstreamUnreachable "Nobody listens at its port";
    ConnectionTerminated "connection_terminated" UpstreamUnreachable "It closed the connection without an answer";
    ConnectionTimeout "connection_timeout" UpstreamTimeout "There was no connection within `timeouts.connect`";
    ConnectionReadTimeout "connection_read_timeout" UpstreamTimeout "There was no answer within `timeouts.firstByte`";
    ConnectionWriteTimeout "connection_write_timeout" UpstreamTimeout "It took nothing of the request's body, and said nothing, within `timeouts.firstByte` and `timeouts.idle`";
    ConnectionLimitReached "connection_limit_reached" Overloaded "We have no socket left for it";
    TlsProtocolError "tls_protocol_error" UpstreamUnreachable "It does not speak TLS as it should";
    TlsCertificateError "tls_certificate_error" UpstreamUnreachable "Its certificate does not verify";
    TlsAlertReceived "tls_alert_received" UpstreamUnreachable "It ended TLS: it may want another certificate of ours, or offer none of our protocols";
    HttpResponseIncomplete "http_response_incomplete" UpstreamUnreachable "Its answer broke off before anything of a body came";
    HttpResponseHeaderSectionSize "http_response_header_section_size" UpstreamUnreachable "The head of its answer is too large";
    HttpResponseTimeout "http_response_timeout" UpstreamTimeout "All of its answer was not there within `timeouts.total`";
    HttpUpgradeFailed "http_upgrade_failed" UpstreamUnreachable "Its 101 is no answer to what was asked";
    HttpProtocolError "http_protocol_error" UpstreamUnreachable "It does not speak HTTP as it should, or not the version that the rule demands";
    ProxyConfigurationError "proxy_configuration_error" UpstreamUnreachable "A file or name that the rule gives for TLS cannot be used: the log says which";
    ProxyLoopDetected "proxy_loop_detected" AmbiguousDestination "The destination is the sidecar itself, or an address of its workload";
}

impl Cause {
    /// What a gRPC caller hears: who sets a limit for a whole call hears that it has passed.
    pub(super) fn grpc_status(self) -> u8 {
        match self {
            Self::HttpResponseTimeout => DEADLINE_EXCEEDED,
            _ => self.reason().grpc_status(),
        }
    }

    /// Why TCP could not be opened.
    pub fn of_tcp(error: &io::Error) -> Self {
        let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if short.iter().any(|short| error.raw_os_error() == Some(short.raw_os_error())) {
            return Self::ConnectionLimitReached;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::ConnectionTimeout,
            io::ErrorKind::PermissionDenied => Self::DestinationIpProhibited,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable => Self::DestinationIpUnroutable,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe => Self::ConnectionTerminated,
            _ => Self::DestinationUnavailable,
        }
    }

    /// Why an open connection, with TLS or without, is of no use any more.
    pub fn of_stream(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::TlsCertificateError
            }
            Some(rustls::Error::AlertReceived(_)) => Self::TlsAlertReceived,
            Some(_) => Self::TlsProtocolError,
            None => Self::ConnectionTerminated,
        }
    }
}

/// The value of `Proxy-Status` for a refusal that no upstream caused. Whatever is refused for who the caller is, or for what policy
/// says, has one error type, which says no more than the status.
pub(super) fn of_ours(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest
        | Reason::AmbiguousPath
        | Reason::HeadTooLarge
        | Reason::UriTooLong
        | Reason::MethodNotAllowed
        | Reason::UnsupportedProtocol => status!("http_request_error"),
        Reason::UpstreamUnreachable => status!("destination_unavailable"),
        Reason::UpstreamTimeout => status!("connection_timeout"),
        Reason::PolicyUnavailable => status!("proxy_configuration_error"),
        Reason::Overloaded => status!("connection_limit_reached"),
        Reason::TokenUnavailable | Reason::Internal => status!("proxy_internal_error"),
        Reason::MissingToken
        | Reason::MalformedToken
        | Reason::UnsupportedAlgorithm
        | Reason::UnknownIssuer
        | Reason::UnknownKey
        | Reason::BadSignature
        | Reason::Expired
        | Reason::NotYetValid
        | Reason::WrongAudience
        | Reason::WrongType
        | Reason::MissingClaim
        | Reason::Inactive
        | Reason::Revoked
        | Reason::BindingMismatch
        | Reason::ProofInvalid
        | Reason::ProofReplayed
        | Reason::MultipleTokens
        | Reason::InsufficientScope
        | Reason::NoRule
        | Reason::DeniedByRule
        | Reason::PeerRequired
        | Reason::AmbiguousDestination
        | Reason::EgressDenied
        | Reason::KeysUnavailable => status!("http_request_denied"),
    }
}

/// The time for a call is over, whether the server has carried it out or not.
const DEADLINE_EXCEEDED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that RFC 9209 §2.3 registers for failures without parameters of their own, and for refusals.
    const REGISTERED: &str = "dns_timeout dns_error destination_not_found destination_unavailable \
        destination_ip_prohibited destination_ip_unroutable connection_refused connection_terminated \
        connection_timeout connection_read_timeout connection_write_timeout connection_limit_reached \
        tls_protocol_error tls_certificate_error tls_alert_received http_request_error http_request_denied \
        http_response_incomplete http_response_header_section_size http_response_header_size \
        http_response_body_size http_response_trailer_section_size http_response_trailer_size \
        http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed \
        http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error \
        proxy_loop_detected";

    #[test]
    fn every_error_type_is_registered() {
        let place = |status: &str| {
            let error = status.strip_prefix("countersign; error=").expect("our name goes before it");
            REGISTERED.split(' ').position(|registered| registered == error).expect(error)
        };
        let places: Vec<_> = Cause::ALL.iter().map(|cause| place(cause.proxy_status())).collect();
        assert!(places.is_sorted() && places.len() == 21, "{places:?}");
        for cause in Cause::ALL {
            assert!(cause.proxy_status().ends_with(&format!("={}", cause.as_str())));
        }
        Reason::ALL.iter().for_each(|&reason| _ = place(of_ours(reason)));
    }

    #[test]
    fn in_1_who_is_not_let_in_learns_nothing_but_that() {
        for reason in Reason::ALL.iter().filter(|reason| matches!(reason.status(), 401 | 403)) {
            assert_eq!(of_ours(*reason), "countersign; error=http_request_denied", "{reason}");
        }
    }

    #[test]
    fn os_5_without_a_descriptor_it_is_our_limit_that_is_reached() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let cause = Cause::of_tcp(&errno.into());
            assert_eq!((cause.as_str(), cause.reason().status()), ("connection_limit_reached", 503));
        }
    }

    #[test]
    fn what_the_network_says_of_an_address_is_told_apart() {
        for (errno, error) in [
            (Errno::CONNREFUSED, "connection_refused"),
            (Errno::TIMEDOUT, "connection_timeout"),
            (Errno::HOSTUNREACH, "destination_ip_unroutable"),
            (Errno::NETUNREACH, "destination_ip_unroutable"),
            (Errno::PERM, "destination_ip_prohibited"),
            (Errno::CONNRESET, "connection_terminated"),
        ] {
            assert_eq!(Cause::of_tcp(&errno.into()).as_str(), error, "{errno}");
        }
    }
}
