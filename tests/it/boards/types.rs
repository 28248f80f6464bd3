//! Dashboards match Grafana's published TypeScript types, converted to a JSON schema.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::{Value, json};

use super::{boards, root};
use crate::support::{is_installed, skip};

#[test]
fn boards_match_grafana_types() {
    for program in ["npm", "node"] {
        if !is_installed(program) {
            return skip(program);
        }
    }
    let schema = match schema() {
        Ok(schema) => schema,
        // npm cannot download the packages without a network.
        Err(reason) => return skip(&format!("npm's packages: {reason}")),
    };
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut errors = Vec::new();
    let boards = boards();
    for (name, board) in &boards {
        for error in validator.iter_errors(board) {
            errors.push(format!("{name}: {}", deepest(&error)));
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    // The schema does reject an unknown option.
    let mut other = boards["host"].clone();
    other["panels"][1]["options"]["colourMode"] = json!("value");
    assert!(!validator.is_valid(&other));
}

/// The most deeply nested errors: for `anyOf` they belong to the intended alternative.
fn deepest(error: &ValidationError<'_>) -> String {
    fn leaves<'a>(error: &'a ValidationError<'a>, found: &mut Vec<&'a ValidationError<'a>>) {
        match error.kind() {
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                context.iter().flatten().for_each(|it| leaves(it, found));
            }
            _ => found.push(error),
        }
    }
    let mut found = Vec::new();
    leaves(error, &mut found);
    let depth = |it: &&ValidationError<'_>| it.instance_path().as_str().matches('/').count();
    let most = found.iter().map(depth).max();
    found.retain(|it| Some(depth(it)) == most);
    let output: BTreeSet<_> = found
        .iter()
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect();
    output.into_iter().collect::<Vec<_>>().join("\n")
}

/// The JSON schema of `tests/it/boards/schema/board.ts`, built once, or the reason why npm cannot
/// install its generator.
fn schema() -> Result<Value, String> {
    let from = root().join("tests/it/boards/schema");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("board_schema");
    let sources = ["package.json", "package-lock.json", "board.ts"];
    let texts = sources.map(|name| fs::read_to_string(from.join(name)).unwrap());
    let (stamp, schema_file) = (dir.join("stamp"), dir.join("schema.json"));
    let content = texts.concat();
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&content) {
        let _absent = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in sources.iter().zip(&texts) {
            fs::write(dir.join(name), text).unwrap();
        }
        run(&dir, "npm ci --ignore-scripts --no-audit --no-fund")?;
        run(
            &dir,
            "node node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js \
             --path board.ts --type Board --expose none --no-type-check --out schema.json",
        )
        .unwrap();
        fs::write(stamp, content).unwrap();
    }
    Ok(serde_json::from_str(&fs::read_to_string(schema_file).unwrap()).unwrap())
}

fn run(dir: &Path, line: &str) -> Result<(), String> {
    let mut args = line.split_whitespace();
    let mut command = Command::new(args.next().unwrap());
    let output = command.args(args).current_dir(dir).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {reason}"))
}
