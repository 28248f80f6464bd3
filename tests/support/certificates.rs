//! Certificates and keys, created with openssl as `NAME.crt` and `NAME.key` in a directory.

use std::{fs, path::Path, process::Command};

const CURVE: &str = "ec_paramgen_curve:P-256";

fn openssl(dir: &Path, words: &[&str]) {
    let output = Command::new("openssl")
        .args(words)
        .current_dir(dir)
        .output();
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words:?}: {stderr}");
}

/// Creates a self-signed certificate, which openssl makes an authority by default.
pub fn self_signed(dir: &Path, name: &str, subject: &str, more: &[&str]) {
    let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
    let mut words = vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", CURVE, "-nodes"];
    words.extend(["-keyout", &key, "-out", &crt, "-subj", subject]);
    words.extend(["-days", "30"]);
    words.extend(more);
    openssl(dir, &words);
}

/// Creates a certificate signed by `ca`, for a key of this kind: `ec` or, for example, `rsa:2048`.
pub fn ca_signed(dir: &Path, name: &str, kind: &str, ca: &str, days: &str, extensions: &str) {
    let file = |ending: &str| format!("{name}.{ending}");
    let (key, csr, crt) = (file("key"), file("csr"), file("crt"));
    let mut request = vec!["req", "-new", "-newkey", kind];
    if kind == "ec" {
        request.extend(["-pkeyopt", CURVE]);
    }
    let subject = format!("/CN={name}");
    request.extend(["-nodes", "-keyout", &key, "-out", &csr, "-subj", &subject]);
    openssl(dir, &request);
    fs::write(dir.join("extensions"), extensions).unwrap();
    let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
    let mut words = vec![
        "x509", "-req", "-in", &csr, "-CA", &ca_crt, "-CAkey", &ca_key,
    ];
    words.extend(["-CAcreateserial", "-out", &crt, "-days", days]);
    words.extend(["-extfile", "extensions"]);
    openssl(dir, &words);
}
