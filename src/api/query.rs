//! Query parameters. An unknown or invalid one is an error, because the client might mistake the
//! response for what it meant to request.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::error::ApiError;

/// Query parameters, each known and present once.
#[derive(Debug, Default)]
pub(super) struct QueryParams(BTreeMap<String, String>);

impl QueryParams {
    pub(super) fn parse(query: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        let mut all = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !allowed.contains(&&*name) {
                let expected = match allowed {
                    [] => "no parameters are supported".to_owned(),
                    allowed => format!("expected {}", allowed.join(", ")),
                };
                let reason = format!("unknown parameter {name:?}: {expected}");
                return Err(ApiError::new(400, reason));
            }
            let name = name.into_owned();
            if all.contains_key(&name) {
                let reason = format!("duplicate parameter {name:?}");
                return Err(ApiError::new(400, reason));
            }
            all.insert(name, value.into_owned());
        }
        Ok(Self(all))
    }

    /// The raw value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// An integer parameter within these bounds.
    pub(super) fn parse_number(
        &self,
        name: &str,
        bounds: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.map(Some).ok_or_else(|| {
            let (min, max) = bounds.into_inner();
            let reason = format!("invalid {name} {text:?}: expected a number from {min} to {max}");
            ApiError::new(400, reason)
        })
    }

    /// A boolean parameter; false if absent.
    pub(super) fn parse_bool(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let reason = format!("invalid {name} {other:?}: expected true or false");
                Err(ApiError::new(400, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_invalid_parameters() {
        let all =
            |query| QueryParams::parse(query, &["all"]).and_then(|query| query.parse_bool("all"));
        for (query, expected) in [("", false), ("all=false", false), ("all=true", true)] {
            assert_eq!(all(query).ok(), Some(expected), "{query}");
        }
        for query in ["all", "all=1", "al=true", "all=true&all=true", "x"] {
            let error = all(query).unwrap_err();
            assert_eq!(error.status(), 400, "{query}");
        }
    }
}
