//! Query parameters. An unknown or invalid one is an error, because the client might mistake the
//! response for what it meant to request.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::error::ApiError;

/// Query parameters, each known and present once.
#[derive(Debug, Default)]
pub(super) struct QueryParams(BTreeMap<String, String>);

impl QueryParams {
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut all = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&&*name) {
                let known = match known {
                    [] => "there is none here".to_owned(),
                    known => format!("there is {}", known.join(", ")),
                };
                let reason = format!("unknown parameter {name:?}: {known}");
                return Err(ApiError::new(400, reason));
            }
            let name = name.into_owned();
            if all.contains_key(&name) {
                let reason = format!("the parameter {name:?} is there twice");
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
            let (least, most) = bounds.into_inner();
            let reason = format!("{name} is not a number from {least} to {most}: {text:?}");
            ApiError::new(400, reason)
        })
    }

    /// A boolean parameter; false if absent.
    pub(super) fn parse_bool(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let reason = format!("{name} is neither true nor false: {other:?}");
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
        for (query, is) in [("", false), ("all=false", false), ("all=true", true)] {
            assert_eq!(all(query).ok(), Some(is), "{query}");
        }
        for query in ["all", "all=1", "al=true", "all=true&all=true", "x"] {
            let problem = all(query).unwrap_err();
            assert_eq!(problem.status(), 400, "{query}");
        }
    }
}
