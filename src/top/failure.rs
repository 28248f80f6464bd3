//! Why there is no answer, in one line that says what to do.

use std::{error::Error, io};

use rustls::{CertificateError, Error as TlsError};

use super::encryption::Own;

/// Says why there is none.
pub(super) fn reason(error: &(dyn Error + 'static), own: Option<&Own>) -> String {
    let own = own.filter(|own| own.is_asked());
    let certificate = own.map(|own| {
        if own.is_there() {
            "its client_ca has to have signed that of tls_config in --http.config.file"
        } else {
            "name one by cert_file and key_file in tls_config of --http.config.file"
        }
    });
    match (cause::<TlsError>(error), certificate) {
        (Some(TlsError::InvalidCertificate(why)), _) => untrusted(why),
        (Some(TlsError::InvalidMessage(_)), _) => {
            "it does not speak TLS: if it speaks HTTP, ask for http://".to_owned()
        }
        (Some(TlsError::AlertReceived(alert)), Some(advice)) => {
            if own.is_some_and(Own::is_there) {
                format!("it does not take our client certificate ({alert:?}): {advice}")
            } else {
                format!("it asks for a client certificate: {advice}")
            }
        }
        (Some(error), _) => format!("TLS: {error}"),
        // An alert may be lost when the connection breaks behind it.
        (None, Some(advice)) if is_broken(error) => {
            format!("it closed the connection, and had asked for a client certificate: {advice}")
        }
        (None, _) => error.to_string(),
    }
}

/// Says why encryption could not begin.
pub(super) fn not_begun(error: &io::Error, own: &Own) -> String {
    if is_broken(error) && !own.is_asked() {
        return "it closed the connection instead of speaking TLS: if it speaks HTTP, ask for \
                http://"
            .to_owned();
    }
    reason(error, Some(own))
}

fn untrusted(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "its certificate is signed by nobody who is trusted \
             here: name who signed it in tls_config.ca_file of --http.config.file"
            .to_owned(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            // Each comes as `DnsName("x")` or `IpAddress(x)`.
            let names = presented.iter().map(|name| {
                let name = name.split_once('(').map_or(name.as_str(), |(_, name)| name);
                name.trim_end_matches(')').trim_matches('"')
            });
            let names: Vec<_> = names.collect();
            let names = match names.as_slice() {
                [] => "nobody".to_owned(),
                names => names.join(", "),
            };
            format!(
                "its certificate is not for {}: ask for a name that it has, or set \
                 tls_config.server_name in --http.config.file to one; it is for {names}",
                expected.to_str(),
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate does not hold yet, by the clock here".to_owned()
        }
        CertificateError::BadSignature => {
            "its certificate is not trusted: a signature is wrong".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not trusted: it is not one for servers".to_owned()
        }
        CertificateError::Other(why) => format!("its certificate is not trusted: {}", why.0),
        why => format!("its certificate is not trusted: {why}"),
    }
}

/// Whether a connection ended that was open.
fn is_broken(error: &(dyn Error + 'static)) -> bool {
    let by_system = cause::<io::Error>(error).is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof
        )
    });
    let by_hyper = cause::<hyper::Error>(error)
        .is_some_and(|error| error.is_incomplete_message() || error.is_closed());
    by_system || by_hyper
}

/// The error of a kind that stands behind one.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // Whose source is that of what it holds.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}
