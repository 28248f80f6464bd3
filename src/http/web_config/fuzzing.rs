//! For `src/fuzzing`: any bytes as a web config, and as the certificate that a client shows.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::{client_certificates, parse};

/// A file; says how much it sets.
pub(crate) fn file(bytes: &[u8]) -> usize {
    match parse(bytes, Path::new("/etc/strata")) {
        Ok(config) => {
            assert!(config.users.keys().all(|name| !name.contains(':')));
            let said = [config.tls.is_some(), config.rate_limit.is_some()];
            let said = said.into_iter().filter(|it| *it).count();
            let said = said + config.headers.len() + config.users.len();
            // What sets something is not taken for an empty file, which opens no door.
            assert!(said == 0 || !config.is_empty());
            said
        }
        // It goes to a log.
        Err(wrong) => {
            let said = wrong.to_string();
            assert!(!said.contains('\n') && said.len() <= 8 * bytes.len() + 2000);
            0
        }
    }
}

/// A certificate; says how many names it has.
pub(crate) fn certificate(bytes: &[u8]) -> usize {
    let names = client_certificates::subject_alt_names(&CertificateDer::from_slice(bytes));
    let Ok(names) = names else {
        return 0;
    };
    // An address is written in up to 39 bytes.
    let written: usize = names.iter().map(String::len).sum();
    assert!(written <= 20 * bytes.len());
    names.len()
}
