//! Fuzz targets for the web config and client certificates: see [`crate::fuzzing`].

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::{client_certificates, parse};

/// Parses a file and returns the number of settings in it.
pub(crate) fn file(bytes: &[u8]) -> usize {
    match parse(bytes, Path::new("/etc/strata")) {
        Ok(config) => {
            assert!(config.users.keys().all(|name| !name.contains(':')));
            let settings = [config.tls.is_some(), config.rate_limit.is_some()];
            let count = settings.into_iter().filter(|it| *it).count();
            let count = count + config.headers.len() + config.users.len();
            // A file with settings must not count as empty, because an empty one disables
            // protection.
            assert!(count == 0 || !config.is_empty());
            count
        }
        // The error goes to the log.
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n') && message.len() <= 8 * bytes.len() + 2000);
            0
        }
    }
}

/// Parses a certificate and returns the number of names in it.
pub(crate) fn certificate(bytes: &[u8]) -> usize {
    let names = client_certificates::subject_alt_names(&CertificateDer::from_slice(bytes));
    let Ok(names) = names else {
        return 0;
    };
    // An address is formatted with up to 39 bytes.
    let total_len: usize = names.iter().map(String::len).sum();
    assert!(total_len <= 20 * bytes.len());
    names.len()
}
