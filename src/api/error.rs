//! Why a request has no other answer.

use std::fmt;

use serde::Serialize;

use super::ApiResponse;

/// A request that is wrong, or cannot be answered now.
#[derive(Debug)]
pub(super) struct ApiError {
    status: u16,
    body: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: String,
    /// What may have been meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<Candidate>,
}

/// What a word that means several things may have meant.
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

    /// That a word means several things.
    pub(super) fn ambiguous(reason: impl Into<String>, candidates: Vec<Candidate>) -> Self {
        let mut problem = Self::new(409, reason);
        problem.body.candidates = candidates;
        problem
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
    fn from(problem: ApiError) -> Self {
        Self {
            status: problem.status,
            // Cannot fail: it is made of text.
            json: serde_json::to_vec(&problem.body).unwrap_or_default(),
        }
    }
}
