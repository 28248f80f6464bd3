//! Bcrypt hashes of passwords.

use std::fmt;

/// A higher cost takes seconds of CPU time for each guess.
const MAX_COST: u32 = 16;

/// A password hash in bcrypt's format.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PasswordHash {
    text: String,
    cost: u32,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<hash of cost {}>", self.cost)
    }
}

impl PasswordHash {
    /// Parses a hash. The error does not contain it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts: bcrypt::HashParts = text.parse().map_err(|_| {
            "not a bcrypt hash, which starts with $2a$, $2b$ or $2y$ and has 60 characters"
                .to_owned()
        })?;
        let cost = parts.get_cost();
        if !(4..=MAX_COST).contains(&cost) {
            return Err(format!(
                "bcrypt cost {cost} is out of range, expected 4 to {MAX_COST}"
            ));
        }
        let text = text.to_owned();
        Ok(Self { text, cost })
    }
}

impl PasswordHash {
    /// A hash that matches no known password, with the same cost as another.
    pub(super) fn decoy(template: Option<&Self>) -> Self {
        let cost = template.map_or(10, |template| template.cost);
        let text = format!("$2b${cost:02}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi");
        Self { text, cost }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    #[cfg(test)]
    pub(super) fn cost(&self) -> u32 {
        self.cost
    }

    /// Whether the password matches. Slow by design, and equally slow for any password.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        bcrypt::verify(password, &self.text).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH_SUFFIX: &str = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    #[test]
    fn accepts_only_bcrypt_hashes() {
        for valid in ["2a$10", "2b$04", "2y$16", "2x$12"] {
            assert!(
                PasswordHash::parse(&format!("${valid}${HASH_SUFFIX}")).is_ok(),
                "{valid}"
            );
        }
        for invalid in ["2c$10", "2y$03", "2y$17", "2y$99", "2y$1x", "1$10"] {
            assert!(
                PasswordHash::parse(&format!("${invalid}${HASH_SUFFIX}")).is_err(),
                "{invalid}"
            );
        }
        assert!(PasswordHash::parse("").is_err());
        assert!(PasswordHash::parse(&format!("$2y$10${HASH_SUFFIX}x")).is_err());
        assert!(PasswordHash::parse(&"\u{e9}".repeat(30)).is_err());
    }
}
