package sandlot.kernel;

import java.io.FileDescriptor;

/** What Java itself cannot do with its process; see native.c. */
final class Native {
    static {
        System.load(System.getProperty("sandlot.home") + "/libkernel.so");
    }

    private Native() {}

    /** Let SIGINT do nothing to us. It is for what a run has started; ourselves, execd tells by a message. */
    static native void takeInterrupts();

    /** Return a variable's value, and unset it; null if it is not set. */
    static native String takeVariable(String name);

    /** Set a variable of the process. */
    static native void setVariable(String name, String value);

    /** The descriptor of that number, closed to programs that we start; null if there is none. */
    static native FileDescriptor descriptor(int number);

    /** Change the working directory; 0, or the error's number. */
    static native int changeDirectory(byte[] path);

    /** The working directory, without symbolic links; null if that cannot be said. */
    static native byte[] currentDirectory();

    /** Text for an error's number. */
    static native String describe(int error);

    /** Set all variables of the process: names and values in turn. */
    static native void setEnvironment(byte[][] variables);

    /** Set a field, final and private ones too. False: there is no such field. */
    static native boolean setField(Class<?> owner, Object object, String name, String signature, Object value);

    /** Get a static field's value; null: there is no such field. */
    static native Object getStatic(Class<?> owner, String name, String signature);

    /** Throw an error in a thread, whatever it does; 0, or the number of a JVMTI error (the thread has ended). */
    static native int stop(Thread thread, Throwable death);

    /** Replace this process by another program, which keeps the descriptor. Returns only on failure. */
    static native void execute(byte[][] argv, int kept);
}
