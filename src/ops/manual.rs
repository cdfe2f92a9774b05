//! `outbox-relay completions` and `outbox-relay man`: what is made of the description of the command line.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::print;
use super::talk::say;
use crate::cli::{for_manual, undecorated};

/// Prints what a shell has to load.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut undecorated(), "outbox-relay", &mut script);
    let script = String::from_utf8(script).context("a script is text")?;
    // For bash clap_complete takes the hyphen of the name for the beginning of a command in one place and not in the other
    // (4.6.11), so nothing behind the first word would be completed.
    print::data(&script.replace("outbox__subcmd__relay", "outbox__relay"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for every command into the directory, or prints the first one.
pub fn man(directory: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut command = for_manual().disable_help_subcommand(true);
    // Names and usages of the inner ones.
    command.build();
    let Some(directory) = directory else {
        print::data(&page(&command)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(directory).with_context(|| format!("make the directory {}", directory.display()))?;
    let pages = write_pages(&command, directory)?;
    say(&format!("{pages} pages in {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: &Command, directory: &Path) -> anyhow::Result<usize> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    fs::write(&path, page(command)?).with_context(|| format!("write {}", path.display()))?;
    let inner = command.get_subcommands().map(|inner| write_pages(inner, directory));
    Ok(1 + inner.sum::<anyhow::Result<usize>>()?)
}

fn page(command: &Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).context("make a manual page")?;
    String::from_utf8(page).context("a page is text")
}
