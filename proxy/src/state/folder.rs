//! What is written in the folder right now? A file or a folder of policy files, read as a whole and within bounds.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_policy::{Problem, Source, source};
use walkdir::{DirEntry, WalkDir};

use super::watch::stamp;

/// Bounds of one folder. They stop accidents (a home directory, a log), not policy.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 10_000;
const MAX_FILE: usize = 4 * 1024 * 1024;
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Reads that a writer interrupted are done again.
const ATTEMPTS: usize = 5;

/// Every document of the file or folder, in the order of file names. Blocks.
pub fn read(path: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let mut attempt = 1;
    loop {
        let before = stamp(path);
        let result = read_once(path);
        if stamp(path) == before || attempt == ATTEMPTS {
            return result;
        }
        attempt += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The policy files of a folder, or the one file itself. Symlinks are followed, since ConfigMaps are made of them; names
/// that begin with a dot are skipped for the same reason.
pub(crate) fn files(path: &Path) -> Vec<Result<PathBuf, Problem>> {
    let visible = |entry: &DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_str().is_some_and(|name| name.starts_with('.'))
    };
    let walk = WalkDir::new(path).follow_links(true).max_depth(MAX_DEPTH).sort_by_file_name();
    let mut files = Vec::new();
    for entry in walk.into_iter().filter_entry(visible) {
        match entry {
            Ok(entry) if is_policy_file(&entry) => files.push(Ok(entry.into_path())),
            Ok(_) => {}
            Err(error) => {
                let file = error.path().unwrap_or(path);
                let message = error.io_error().map_or_else(|| error.to_string(), |error| error.to_string());
                files.push(Err(problem(file, format!("cannot be read: {message}"))));
            }
        }
        if files.len() > MAX_FILES {
            files.push(Err(problem(path, format!("has more than {MAX_FILES} policy files"))));
            break;
        }
    }
    files
}

fn is_policy_file(entry: &DirEntry) -> bool {
    // What was named on the command line is policy, whatever its name.
    let named = entry.depth() == 0;
    !entry.file_type().is_dir() && (named || entry.file_name().to_str().is_some_and(source::is_policy_file))
}

fn read_once(path: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    let mut size = 0_usize;
    for file in files(path) {
        match file.and_then(|file| Ok((read_file(&file)?, file))) {
            Ok((bytes, file)) => {
                size = size.saturating_add(bytes.len());
                match source::split(&file.display().to_string(), &bytes) {
                    Ok(documents) => sources.extend(documents),
                    Err(found) => problems.push(found),
                }
            }
            Err(found) => problems.push(found),
        }
        if size > MAX_BYTES {
            problems.push(problem(path, format!("has more than {MAX_BYTES} bytes of policy")));
            break;
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: std::io::Error| problem(path, format!("cannot be read: {error}"));
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(problem(path, "is not a regular file".to_owned()));
    }
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > MAX_FILE {
        return Err(problem(path, format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn problem(file: &Path, message: String) -> Problem {
    Problem {
        file: file.display().to_string(),
        line: 0,
        document: String::new(),
        field: String::new(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let name = |file: Result<PathBuf, Problem>| match file {
            Ok(file) => file.strip_prefix(path).unwrap().display().to_string(),
            Err(problem) => format!("! {}", problem.message),
        };
        files(path).into_iter().map(name).collect()
    }

    #[test]
    fn finds_policy_files_at_any_depth_but_hidden_ones() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("team/deep")).unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        for file in
            ["b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml", ".git/x.yaml", "team/deep/d.yaml"]
        {
            fs::write(root.path().join(file), "").unwrap();
        }
        assert_eq!(names(root.path()), ["a.yml", "b.yaml", "c.json", "team/deep/d.yaml"]);
        let one = root.path().join("notes.txt");
        assert_eq!(files(&one).len(), 1, "a file that is named is read");
    }

    #[test]
    fn reads_a_config_map_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("..2026")).unwrap();
        fs::write(root.path().join("..2026/a.yaml"), "").unwrap();
        symlink("..2026", root.path().join("..data")).unwrap();
        symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
        assert_eq!(names(root.path()), ["a.yaml"]);
    }

    #[test]
    fn tells_what_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        let missing = read(&root.path().join("missing")).unwrap_err();
        assert!(missing[0].to_string().contains("missing: cannot be read: No such file"), "{}", missing[0]);

        symlink("nowhere", root.path().join("broken.yaml")).unwrap();
        symlink(".", root.path().join("loop")).unwrap();
        let found = names(root.path());
        assert_eq!(found.iter().filter(|name| name.starts_with('!')).count(), 2, "{found:?}");
    }

    #[test]
    fn bounds_a_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("big.yaml"), vec![b'#'; MAX_FILE + 1]).unwrap();
        let problems = read(root.path()).unwrap_err();
        assert!(problems[0].message.contains("is larger than"), "{}", problems[0]);
    }
}
