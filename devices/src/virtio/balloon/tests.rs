#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::{
    super::{
        Signals,
        function::{Function, status},
        io_thread::IoThread,
        testing::{Count, Driver, HIGH, MEMORY, NEXT, WRITE, memory, negotiate},
    },
    handle::{COMMAND, TARGET},
    *,
};
use std::sync::{Mutex, atomic::Ordering};

type Ranges = Arc<Mutex<Vec<(u64, usize)>>>;

/// Notes the guest-physical ranges that are given back.
fn notes(memory: &GuestMemoryMmap) -> (Release, Ranges) {
    let ranges = Ranges::default();
    let (noted, memory) = (ranges.clone(), memory.clone());
    let release = move |slice: VolatileSlice<'_>| {
        let host = slice.ptr_guard().as_ptr() as u64;
        let base = [0, HIGH].into_iter().find_map(|base| {
            let start = memory.get_host_address(GuestAddress(base)).unwrap() as u64;
            (start..start + MEMORY).contains(&host).then(|| base + (host - start))
        });
        noted.lock().unwrap().push((base.unwrap(), slice.len()));
    };
    (Arc::new(release), ranges)
}

struct Rig {
    device: Balloon,
    worker: Option<BalloonWorker>,
    handle: Arc<Handle>,
    drivers: Vec<Driver>,
    ranges: Ranges,
}

impl Rig {
    fn new(options: Options, features: u64, queues: &[u16]) -> Self {
        let memory = memory();
        let (release, ranges) = notes(&memory);
        let handle = Arc::new(Handle::new(64 << 20));
        let mut device = Balloon::new(options, handle.clone(), release);
        let drivers: Vec<_> = queues
            .iter()
            .map(|queue| Driver::at(memory.clone(), 16, u64::from(*queue) * 0x2_0000))
            .collect();
        let setup = Setup {
            memory,
            features,
            signals: drivers[0].signals.clone(),
            rings: queues
                .iter()
                .zip(&drivers)
                .map(|(queue, driver)| driver.ring(*queue))
                .collect(),
        };
        let worker = device.start(setup).unwrap().pop();
        Self {
            device,
            worker,
            handle,
            drivers,
            ranges,
        }
    }

    fn plain() -> Self {
        Self::new(Options::default(), 0, &[0, 1])
    }

    /// A rig with statistics, hints and reports.
    fn full() -> Self {
        let options = Options {
            deflate_on_oom: true,
            statistics: Duration::from_secs(100),
            hinting: true,
            reporting: true,
        };
        Self::new(
            options,
            1 << F_STATS_VQ | 1 << F_FREE_PAGE_HINT | 1 << F_PAGE_REPORTING,
            &[0, 1, 2, 3, 4],
        )
    }

    fn serve(&mut self, data: u32) -> bool {
        self.worker.as_mut().unwrap().serve(data)
    }

    /// The driver gives these pages up; what was given back.
    fn inflate(&mut self, pages: &[u32]) -> Vec<(u64, usize)> {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.drivers[0].add(&[&bytes], &[]);
        assert!(self.serve(0));
        assert_eq!(self.drivers[0].used().len(), 1);
        self.released()
    }

    fn released(&self) -> Vec<(u64, usize)> {
        mem::take(&mut self.ranges.lock().unwrap())
    }
}

#[test]
fn features_follow_the_options() {
    assert_eq!(Rig::plain().device.features(), 0);
    assert_eq!(Rig::full().device.features(), 0b10_1110);
}

#[test]
fn adjacent_pages_go_back_as_one() {
    let mut rig = Rig::plain();
    let page = PAGE as usize;
    assert_eq!(rig.inflate(&[5, 3, 4, 9, 4]), [(3 * PAGE, 3 * page), (9 * PAGE, page)]);
    assert_eq!(rig.inflate(&[]), []);
}

#[test]
fn pages_outside_memory_are_passed_over() {
    let mut rig = Rig::plain();
    let last = (MEMORY / PAGE) as u32 - 1;
    let page = PAGE as usize;
    assert_eq!(rig.inflate(&[last, last + 1, last + 2]), [(MEMORY - PAGE, page)]);
    assert_eq!(rig.inflate(&[last + 1, u32::MAX, u32::MAX - 1]), []);
    assert_eq!(rig.inflate(&[(HIGH / PAGE) as u32]), [(HIGH, page)]);
    assert!(!rig.drivers[0].signals.needs_reset());
}

#[test]
fn a_request_of_any_length_takes_bounded_work() {
    let mut rig = Rig::plain();
    // 16 MiB of page numbers: the same megabyte over and over. It is full of zeroes.
    for index in 0..16 {
        let flags = (if index < 15 { NEXT } else { 0 }, index + 1);
        rig.drivers[0].descriptor(index, HIGH, MEMORY as u32, flags);
    }
    rig.drivers[0].publish(0);
    assert!(rig.serve(0));
    assert_eq!(rig.released().len(), MAX_PAGES / BATCH);
    // Room that the device might write, and half a page number, are nothing.
    rig.drivers[0].descriptor(0, HIGH, 64, (WRITE, 0));
    rig.drivers[0].publish(0);
    rig.drivers[0].descriptor(1, HIGH, 3, (0, 0));
    rig.drivers[0].publish(1);
    assert!(rig.serve(0));
    assert_eq!(rig.released(), []);
}

#[test]
fn deflating_is_answered() {
    let mut rig = Rig::plain();
    rig.drivers[1].add(&[&1_u32.to_le_bytes()], &[]);
    assert!(rig.serve(1));
    assert_eq!((rig.drivers[1].used().len(), rig.released()), (1, vec![]));
}

#[test]
fn the_target_reaches_the_guest_and_its_answer_the_owner() {
    let rig = Rig::plain();
    let config = rig.device.config();
    assert_eq!(config.get::<4>(TARGET), (64_u32 << 8).to_le_bytes());
    let count = Arc::new(Count::default());
    config.attach(Some(Signals::new("test", Box::new(count.clone()))));
    rig.handle.set_target(10 << 20);
    assert_eq!(
        (config.get::<4>(TARGET), rig.handle.target()),
        (2560_u32.to_le_bytes(), 10 << 20)
    );
    assert_eq!(count.config.load(Ordering::Relaxed), 1);
    assert!(config.write(ACTUAL, &7_u32.to_le_bytes()));
    assert_eq!(rig.handle.actual(), 7 * PAGE);
    for offset in [TARGET, COMMAND, 12] {
        assert!(!config.write(offset, &[1; 4]), "{offset}");
    }
    // A machine that is built anew has the same target.
    let again = Balloon::new(Options::default(), rig.handle.clone(), Arc::new(|_| {}));
    assert_eq!(again.config().get::<4>(TARGET), 2560_u32.to_le_bytes());
    assert_eq!(rig.handle.actual(), 0);
}

fn statistics(values: &[(u16, u64)]) -> Vec<u8> {
    let parts = values
        .iter()
        .map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat());
    parts.collect::<Vec<_>>().concat()
}

#[test]
fn statistics_come_with_each_tick() {
    let mut rig = Rig::full();
    assert_eq!(rig.handle.statistics(), None);
    rig.drivers[2].add(&[&statistics(&[(4, 1000), (5, 2000), (77, 1)])], &[]);
    assert!(rig.serve(2));
    assert!(
        rig.drivers[2].used().is_empty(),
        "the buffer is kept until statistics are wanted"
    );
    let (first, _) = rig.handle.statistics().unwrap();
    let expected = Statistics {
        free_memory: Some(1000),
        total_memory: Some(2000),
        ..Statistics::default()
    };
    assert_eq!(first, expected);
    assert!(rig.serve(TICK));
    assert_eq!(rig.drivers[2].used(), [(0, 0)]);
    rig.drivers[2].add(&[&statistics(&[(4, 500)])], &[]);
    assert!(rig.serve(2));
    assert_eq!(rig.handle.statistics().unwrap().0.free_memory, Some(500));
    // The buffer is the driver's again after a pause.
    let queue = &mut rig.device.stop(vec![rig.worker.take().unwrap()])[2];
    assert!(queue.has_available().unwrap());
}

#[test]
fn statistics_are_read_up_to_a_bound() {
    let mut rig = Rig::full();
    let many: Vec<_> = (0..1000).map(|value| (4, value)).collect();
    rig.drivers[2].add(&[&statistics(&many)], &[]);
    assert!(rig.serve(2));
    assert_eq!(
        rig.handle.statistics().unwrap().0.free_memory,
        Some(MAX_STATISTICS as u64 - 1)
    );
    rig.drivers[2].add(&[&[4, 0, 1]], &[]);
    rig.drivers[2].add(&[], &[40]);
    assert!(rig.serve(2));
    assert_eq!(rig.handle.statistics().unwrap().0, Statistics::default());
    assert_eq!(rig.drivers[2].used().len(), 2);
}

#[test]
fn reported_pages_go_back() {
    let mut rig = Rig::full();
    rig.drivers[4].descriptor(0, HIGH, 0x8000, (WRITE | NEXT, 1));
    rig.drivers[4].descriptor(1, 0x9_0000, 0x2000, (WRITE, 0));
    rig.drivers[4].publish(0);
    assert!(rig.serve(4));
    assert_eq!(rig.released(), [(HIGH, 0x8000), (0x9_0000, 0x2000)]);
}

#[test]
fn hints_count_while_they_are_asked_for() {
    let mut rig = Rig::full();
    let hint = |rig: &mut Rig| {
        rig.drivers[3].descriptor(9, HIGH, 0x4000, (WRITE, 0));
        rig.drivers[3].publish(9);
        assert!(rig.serve(3));
        rig.released()
    };
    let say = |rig: &mut Rig, number: u32| {
        rig.drivers[3].add(&[&number.to_le_bytes()], &[]);
        assert!(rig.serve(3));
    };
    let command = |rig: &Rig| u32::from_le_bytes(rig.device.config().get(COMMAND));
    assert_eq!(hint(&mut rig), []);
    assert!(rig.handle.start_hinting());
    let number = command(&rig);
    assert!(number > handle::DONE);
    say(&mut rig, number + 1);
    assert_eq!(hint(&mut rig), []);
    say(&mut rig, number);
    assert_eq!(hint(&mut rig), [(HIGH, 0x4000)]);
    say(&mut rig, handle::STOP);
    assert_eq!((command(&rig), rig.handle.is_hinting()), (handle::DONE, false));
    assert_eq!(hint(&mut rig), []);
    // A request that was replaced ends without a word about the new one.
    assert!(rig.handle.start_hinting());
    let old = command(&rig);
    say(&mut rig, old);
    assert!(rig.handle.start_hinting());
    say(&mut rig, handle::STOP);
    assert_eq!((command(&rig), rig.handle.is_hinting()), (old + 1, true));
    rig.handle.stop_hinting();
    assert_eq!(command(&rig), handle::DONE);
    assert!(!Rig::plain().handle.start_hinting());
}

#[test]
fn queues_have_the_numbers_of_linux_or_of_the_specification() {
    let reporting = Options {
        reporting: true,
        ..Options::default()
    };
    for queue in [2, 4] {
        let mut rig = Rig::new(reporting, 1 << F_PAGE_REPORTING, &[0, 1, queue]);
        rig.drivers[2].descriptor(0, HIGH, 0x1000, (WRITE, 0));
        rig.drivers[2].publish(0);
        assert!(rig.serve(queue.into()));
        assert_eq!(rig.released(), [(HIGH, 0x1000)]);
    }
}

#[test]
fn a_broken_queue_breaks_the_device() {
    for queue in 0..5_u16 {
        let mut rig = Rig::full();
        rig.drivers[usize::from(queue)].descriptor(0, MEMORY - 4, 8, (0, 0));
        rig.drivers[usize::from(queue)].publish(0);
        assert!(!rig.serve(queue.into()));
        assert!(rig.drivers[usize::from(queue)].signals.needs_reset());
        assert!(!rig.serve(queue.into()));
    }
}

#[test]
fn a_worker_on_a_thread_asks_by_itself() {
    let memory = memory();
    let (release, _) = notes(&memory);
    let handle = Arc::new(Handle::new(0));
    let options = Options {
        statistics: Duration::from_millis(5),
        ..Options::default()
    };
    let device = Balloon::new(options, handle.clone(), release);
    let mut drivers = [0, 1, 2].map(|queue| Driver::at(memory.clone(), 16, queue * 0x2_0000));
    let thread = Arc::new(IoThread::spawn("io").unwrap());
    let mut function = Function::new(device, vec![thread], memory, drivers[0].signals.clone()).unwrap();
    negotiate(&mut function, 1 << F_STATS_VQ, &drivers);
    drivers[2].add(&[&statistics(&[(4, 42)])], &[]);
    function.set_status(15);
    assert_eq!(function.status(), 15);
    function.kick(2);
    let until = std::time::Instant::now() + Duration::from_secs(120);
    while handle.statistics().is_none() || drivers[2].used().is_empty() {
        assert!(std::time::Instant::now() < until, "no statistics");
        std::thread::sleep(Duration::from_millis(1));
    }
    function.set_status(0);
    assert_eq!(function.status() & status::NEEDS_RESET, 0);
    assert_eq!(handle.statistics(), None);
}
