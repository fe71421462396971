//! Prints what the kernel counts for each thread of a process, so that a script can check that the
//! faults of a thread stay as they are.

use crate::args::Args;

/// Fields of `/proc/PID/task/TID/stat` after the name, which ends with `)`; proc_pid_stat(5) counts
/// from 1 and the name is field 2.
const STATE: usize = 3;
const FLAGS: usize = 9;
const MINOR_FAULTS: usize = 10;
const MAJOR_FAULTS: usize = 12;
const USER_TICKS: usize = 14;
const SYSTEM_TICKS: usize = 15;
const RT_PRIORITY: usize = 40;
const POLICY: usize = 41;

/// The `verify-threads` task.
pub fn run(mut args: Args) -> Result<u8, String> {
    let pid = args.word("PID")?;
    args.done()?;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("no process {pid}: {error}"))?;
    let mut tasks: Vec<u32> = tasks
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    tasks.sort_unstable();
    for task in tasks {
        // A thread may end between the listing and here.
        if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/stat"))
            && let Some(line) = describe(&stat)
        {
            println!("{line}");
        }
    }
    Ok(0)
}

/// One line of key=value from a `stat` line.
fn describe(stat: &str) -> Option<String> {
    let (tid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - STATE).copied();
    let policy = match field(POLICY)? {
        "0" => "other",
        "1" => "fifo",
        "2" => "rr",
        "3" => "batch",
        "5" => "idle",
        "6" => "deadline",
        _ => "unknown",
    };
    Some(format!(
        "thread tid={tid} name={} state={} policy={policy} priority={} minflt={} majflt={} \
         user_ticks={} system_ticks={} flags={:#x}",
        name.replace(' ', "_"),
        field(STATE)?,
        field(RT_PRIORITY)?,
        field(MINOR_FAULTS)?,
        field(MAJOR_FAULTS)?,
        field(USER_TICKS)?,
        field(SYSTEM_TICKS)?,
        field(FLAGS)?.parse::<u64>().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_even_with_blanks_and_parentheses_in_the_name() {
        let numbers: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let line = describe(&format!("77 (a (b) c) R {}", numbers.join(" "))).unwrap();
        assert!(
            line.starts_with("thread tid=77 name=a_(b)_c state=R "),
            "{line}"
        );
        assert!(
            line.contains(" minflt=10 majflt=12 user_ticks=14 system_ticks=15 "),
            "{line}"
        );
        assert!(line.contains("policy=unknown priority=40") && line.ends_with("flags=0x9"));
    }

    #[test]
    fn this_process_can_be_described() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(describe(&stat).unwrap().contains("policy="));
    }
}
