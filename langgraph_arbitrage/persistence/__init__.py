"""Operations on stored threads: resume, rewind, fork, migrate."""
