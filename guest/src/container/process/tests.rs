use super::*;

fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(ToString::to_string).collect(),
        cwd: "/".into(),
        ..Process::default()
    }
}

fn refusal(process: &Process) -> String {
    Attributes::new(process, None).expect_err("makes no sense").to_string()
}

#[test]
fn programs_are_found_in_the_path_of_the_environment() {
    let mut sh = process(&["sh"]);
    sh.env = vec!["PATH=/nowhere:/bin".into()];
    assert_eq!(
        Attributes::new(&sh, None).unwrap().find_program().unwrap().as_bytes(),
        b"/bin/sh"
    );
    sh.env = vec!["PATH=/nowhere".into()];
    let error = Attributes::new(&sh, None).unwrap().find_program().unwrap_err();
    assert_eq!(error.exit_code(), 127);
    assert_eq!(
        error.to_string(),
        "cannot run \"sh\" in the container: executable file not found in $PATH"
    );
}

#[test]
fn what_is_no_program_is_told_from_what_is_not_there() {
    let code = |path: &str| {
        Attributes::new(&process(&[path]), None)
            .unwrap()
            .find_program()
            .unwrap_err()
            .exit_code()
    };
    assert_eq!(code("/nowhere/at/all"), 127);
    assert_eq!(code("/etc/passwd"), 126);
    assert_eq!(code("/etc"), 126);
}

#[test]
fn home_comes_of_passwd_unless_it_is_set() {
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:x:65534:65534:nobody::/bin/sh\n";
    assert_eq!(home_of(passwd, 0).unwrap(), b"/root");
    assert_eq!(home_of(passwd, 65534), None);
    assert_eq!(home_of(passwd, 7), None);
    let mut set = process(&["sh"]);
    set.env = vec!["HOME=/home/me".into()];
    let mut attributes = Attributes::new(&set, None).unwrap();
    attributes.add_home(0);
    assert_eq!(attributes.env, [CString::from(c"HOME=/home/me")]);
}

#[test]
fn cpu_lists_become_masks() {
    assert_eq!(cpu_mask("k", Some("0-2,65")).unwrap().unwrap(), [0b111, 0b10]);
    assert_eq!(cpu_mask("k", None).unwrap(), None);
    for wrong in ["x", "3-1", "1-", "9999999"] {
        assert!(cpu_mask("k", Some(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn wishes_without_sense_are_refused_with_their_key() {
    assert!(refusal(&process(&[])).contains("process.args"));
    assert!(
        refusal(&Process {
            cwd: "tmp".into(),
            ..process(&["x"])
        })
        .contains("process.cwd")
    );
    assert!(
        refusal(&Process {
            oom_score_adj: Some(1001),
            ..process(&["x"])
        })
        .contains("process.oomScoreAdj")
    );
    assert!(refusal(&process(&["x", "a\0b"])).contains("process.args[1]"));
    let nofile = Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        hard: 2,
        soft: 1,
    };
    let twice = Process {
        rlimits: vec![nofile.clone(), nofile.clone()],
        ..process(&["x"])
    };
    assert!(refusal(&twice).contains("RLIMIT_NOFILE is here twice"));
    let upside_down = Process {
        rlimits: vec![Rlimit { soft: 3, ..nofile }],
        ..process(&["x"])
    };
    assert!(refusal(&upside_down).contains("soft 3 is more than hard 2"));
    let class = IoPriority {
        class: "IOPRIO_CLASS_BEST".into(),
        priority: 1,
    };
    assert!(
        refusal(&Process {
            io_priority: Some(class),
            ..process(&["x"])
        })
        .contains("process.ioPriority.class")
    );
    let policy = Scheduler {
        policy: "SCHED_SOON".into(),
        ..Scheduler::default()
    };
    assert!(
        refusal(&Process {
            scheduler: Some(policy),
            ..process(&["x"])
        })
        .contains("process.scheduler.policy")
    );
    let bsd = Personality {
        domain: "BSD".into(),
        flags: vec![],
    };
    assert!(
        Attributes::new(&process(&["x"]), Some(&bsd))
            .unwrap_err()
            .to_string()
            .contains("linux.personality.domain")
    );
}
