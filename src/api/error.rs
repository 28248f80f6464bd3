//! Error responses.

use std::fmt;

use serde::Serialize;

use super::ApiResponse;

/// Error response for an invalid request, or one that cannot be processed now.
#[derive(Debug)]
pub(super) struct ApiError {
    status: u16,
    body: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: String,
    /// Containers that an ambiguous name matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<Candidate>,
}

/// A container that an ambiguous name matches.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Candidate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub cgroup: String,
}

impl ApiError {
    pub(super) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: reason.into(),
                candidates: Vec::new(),
            },
        }
    }

    /// The name matches several containers.
    pub(super) fn ambiguous(reason: impl Into<String>, candidates: Vec<Candidate>) -> Self {
        let mut error = Self::new(409, reason);
        error.body.candidates = candidates;
        error
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == 404
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    #[cfg(test)]
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.body.candidates
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.body.error)
    }
}

impl From<ApiError> for ApiResponse {
    fn from(error: ApiError) -> Self {
        Self {
            status: error.status,
            // Serializing strings cannot fail.
            json: serde_json::to_vec(&error.body).unwrap_or_default(),
        }
    }
}
