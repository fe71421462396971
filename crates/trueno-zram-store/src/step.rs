//! Hooks for tests: before each write to the memory that outlives the process, to stop there, and
//! wherever the system is asked for something, to refuse it.
//! Outside of tests there is nothing.
#![forbid(unsafe_code)]

/// The calling thread is about to change what outlives it.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(test)]
    hooks::call(hooks::Kind::Write);
}

/// The same, where it holds a lock that others may wait for.
#[inline(always)]
pub(crate) fn step_locked() {
    #[cfg(test)]
    hooks::call(hooks::Kind::Locked);
}

/// The calling thread waits for another one to unlock an entry.
#[inline(always)]
pub(crate) fn waits() {
    #[cfg(test)]
    hooks::call(hooks::Kind::Waits);
}

/// The system is about to be asked for something; whether a test wants it refused.
#[inline(always)]
pub(crate) fn refused() -> bool {
    #[cfg(test)]
    return hooks::refused();
    #[cfg(not(test))]
    false
}

#[cfg(test)]
pub(crate) mod hooks {
    use std::cell::RefCell;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Kind {
        Write,
        Locked,
        Waits,
    }

    type Hook = Box<dyn FnMut(Kind)>;
    type Refusal = Box<dyn FnMut() -> bool>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        static REFUSAL: RefCell<Option<Refusal>> = const { RefCell::new(None) };
    }

    /// Calls `hook` from now on before each write of this thread; what it does itself does not count.
    pub(crate) fn set(hook: impl FnMut(Kind) + 'static) {
        HOOK.with(|one| *one.borrow_mut() = Some(Box::new(hook)));
    }

    pub(crate) fn clear() {
        HOOK.with(|one| *one.borrow_mut() = None);
        REFUSAL.with(|one| *one.borrow_mut() = None);
    }

    /// From now on what this thread asks the system for is refused where `refusal` says so.
    pub(crate) fn refuse(refusal: impl FnMut() -> bool + 'static) {
        REFUSAL.with(|one| *one.borrow_mut() = Some(Box::new(refusal)));
    }

    pub(super) fn refused() -> bool {
        REFUSAL.with(|one| one.borrow_mut().as_mut().is_some_and(|refusal| refusal()))
    }

    pub(super) fn call(kind: Kind) {
        // Taken out meanwhile, so that it may use stores of its own.
        let hook = HOOK.with(|one| one.borrow_mut().take());
        if let Some(mut hook) = hook {
            hook(kind);
            HOOK.with(|one| *one.borrow_mut() = Some(hook));
        }
    }
}
