//! `batchwise check`: what is wrong with a configuration, and what production needs.

use std::io::{self, Write};

use serde_json::json;

use super::cli::{CheckArguments, Exit, Format};
use crate::config::{self, EmbeddedKind, Finding, Loaded, Severity};

/// Checks the configuration and writes the findings to `out`, in the order of the file.
///
/// Ends with [`Exit::Usage`] when a finding is an error.
///
/// # Errors
/// What writing to `out` gives.
pub fn run(arguments: &CheckArguments, out: &mut impl Write) -> io::Result<Exit> {
    let overrides = arguments.listen.overrides();
    let loaded = config::load(arguments.config.config.as_deref(), &overrides);
    let (file, findings) = match loaded {
        Ok(loaded) => (loaded.name.clone(), findings(loaded)),
        Err(error) => (error.file.clone(), error.findings()),
    };
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match arguments.format {
        Format::Text => write_text(&file, &findings, errors, out)?,
        Format::Json => write_json(&file, &findings, errors, out)?,
    }
    Ok(if errors == 0 { Exit::Done } else { Exit::Usage })
}

/// The warnings of a valid configuration, and the files that it names but that are not there.
fn findings(loaded: Loaded) -> Vec<Finding> {
    let mut findings = loaded.warnings;
    for (model, lines) in loaded.plan.models.iter().zip(&loaded.lines) {
        let Some(EmbeddedKind::Onnx { path }) = &model.embedded else { continue };
        if !path.is_file() {
            findings.push(Finding {
                file: loaded.name.clone(),
                line: lines.instances.first().copied(),
                severity: Severity::Error,
                key: Some("model.instances".into()),
                message: format!("there is no file {}", path.display()),
                mend: "write the path of an ONNX file that this user may read".into(),
            });
        }
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn write_text(
    file: &str,
    findings: &[Finding],
    errors: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    for finding in findings {
        write!(out, "{}:", finding.file)?;
        if let Some(line) = finding.line {
            write!(out, "{line}:")?;
        }
        writeln!(out, " {}: {}; {}", finding.severity.name(), finding.message, finding.mend)?;
    }
    let warnings = findings.len() - errors;
    let verdict = if errors == 0 { "valid" } else { "not valid" };
    writeln!(out, "{file}: {verdict}: {}, {}", count(errors, "error"), count(warnings, "warning"))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn write_json(
    file: &str,
    findings: &[Finding],
    errors: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "file": finding.file,
                "line": finding.line,
                "severity": finding.severity.name(),
                "key": finding.key,
                "message": finding.message,
                "mend": finding.mend,
            })
        })
        .collect();
    let report = json!({
        "file": file,
        "valid": errors == 0,
        "errors": errors,
        "warnings": findings.len() - errors,
        "findings": list,
    });
    writeln!(out, "{report:#}")
}
