//! A hook before each write to the memory that outlives the process, for the tests that stop there.
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

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Calls `hook` from now on before each write of this thread; what it does itself does not count.
    pub(crate) fn set(hook: impl FnMut(Kind) + 'static) {
        HOOK.with(|one| *one.borrow_mut() = Some(Box::new(hook)));
    }

    pub(crate) fn clear() {
        HOOK.with(|one| *one.borrow_mut() = None);
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
