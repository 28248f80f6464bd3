//! The manual page, with a section for each subcommand.

use std::io;

use clap::Command;
use clap_mangen::Man;

use crate::collector::Entry;

/// Returns the manual page for section 1, in roff.
pub fn man_page(collectors: &[Entry]) -> io::Result<String> {
    let command = super::command(collectors);
    // clap_mangen omits the descriptions of flags hidden from `-h`.
    let mut command = command.mut_args(|arg| arg.hide_short_help(false));
    // Sets the full name of each subcommand.
    command.build();
    let source = format!("{} {}", super::NAME, env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .source(source)
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut page = text(page)?;
    page += ".SH SUBCOMMANDS\n";
    for subcommand in command.get_subcommands() {
        // `serve` has the flags of the program itself.
        if !matches!(subcommand.get_name(), "serve" | "help") {
            subcommand_sections(&mut page, subcommand)?;
        }
    }
    let mut extra = Vec::new();
    man.render_extra_section(&mut extra)?;
    Ok(page + &text(extra)?)
}

/// Writes a subsection for a subcommand and for each nested one.
fn subcommand_sections(page: &mut String, subcommand: &Command) -> io::Result<()> {
    let man = Man::new(subcommand.clone());
    let name = subcommand.get_bin_name().unwrap_or(subcommand.get_name());
    *page += &format!(".SS {name}\n");
    let mut sections = Vec::new();
    man.render_synopsis_section(&mut sections)?;
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    if subcommand.get_after_help().is_some() {
        man.render_extra_section(&mut sections)?;
    }
    for line in text(sections)?.lines() {
        // Headings within a subsection become paragraphs.
        if line.starts_with(".SH ") {
            *page += ".PP\n";
        } else {
            *page += line;
            page.push('\n');
        }
    }
    for nested in subcommand.get_subcommands() {
        if nested.get_name() != "help" {
            subcommand_sections(page, nested)?;
        }
    }
    Ok(())
}

/// Converts rendered roff to text, without the definitions at the head of each section.
fn text(rendered: Vec<u8>) -> io::Result<String> {
    let text = String::from_utf8(rendered).map_err(io::Error::other)?;
    let is_definition = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let lines = text.lines().filter(|line| !is_definition(line));
    // Replaces the string that the removed lines define.
    Ok(lines
        .map(|line| line.replace(r"\*(Aq", "\\(aq") + "\n")
        .collect())
}
