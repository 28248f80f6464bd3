//! Conversion of names chosen by the kernel or a driver to parts of metric names.

/// Replaces each run of characters that are not allowed in a metric name, together with adjacent
/// `_`, by a single `_`.
pub(super) fn sanitize_name(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    word.push_str(parts.next().unwrap_or_default());
    for part in parts {
        word.truncate(word.trim_end_matches('_').len());
        word.push('_');
        word.push_str(part.trim_start_matches('_'));
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_characters_become_one_underscore() {
        for (name, word) in [
            ("kernel.threads-max", "kernel_threads_max"),
            ("rx0: cqe_-_err..", "rx0_cqe_err_"),
            ("[0]:tx__bytes", "_0_tx__bytes"),
            ("größe", "gr_e"),
        ] {
            assert_eq!(sanitize_name(name), word);
        }
    }
}
