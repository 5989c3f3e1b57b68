/* What a live JVM cannot do by itself: take over a descriptor, and become like a program started in the sandbox. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jni.h>
#include <jvmti.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NATIVE(type, name) JNIEXPORT type JNICALL Java_sandlot_kernel_Native_##name

static jfieldID descriptor_number(JNIEnv *env, jclass class) { return (*env)->GetFieldID(env, class, "fd", "I"); }

static void do_nothing(int number) { (void)number; }

NATIVE(void, takeInterrupts)(JNIEnv *env, jclass self) {
    /* Not SIG_IGN: programs that we start would inherit that. */
    struct sigaction action = {.sa_handler = do_nothing, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
}

NATIVE(jstring, takeVariable)(JNIEnv *env, jclass self, jstring variable) {
    const char *name = (*env)->GetStringUTFChars(env, variable, NULL);
    const char *value = name ? getenv(name) : NULL;
    jstring taken = value ? (*env)->NewStringUTF(env, value) : NULL;
    if (name) {
        unsetenv(name);
        (*env)->ReleaseStringUTFChars(env, variable, name);
    }
    return taken;
}

NATIVE(void, setVariable)(JNIEnv *env, jclass self, jstring variable, jstring text) {
    const char *name = (*env)->GetStringUTFChars(env, variable, NULL);
    const char *value = (*env)->GetStringUTFChars(env, text, NULL);
    setenv(name, value, 1);
    (*env)->ReleaseStringUTFChars(env, variable, name);
    (*env)->ReleaseStringUTFChars(env, text, value);
}

NATIVE(jobject, descriptor)(JNIEnv *env, jclass self, jint number) {
    if (fcntl(number, F_SETFD, FD_CLOEXEC) != 0)
        return NULL;
    jclass class = (*env)->FindClass(env, "java/io/FileDescriptor");
    jobject made = (*env)->NewObject(env, class, (*env)->GetMethodID(env, class, "<init>", "()V"));
    if (made)
        (*env)->SetIntField(env, made, descriptor_number(env, class), number);
    return made;
}

/* A copy of an array of bytes as a C string; to be freed. */
static char *copy(JNIEnv *env, jbyteArray bytes) {
    jsize length = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)length + 1);
    if (text) {
        (*env)->GetByteArrayRegion(env, bytes, 0, length, (jbyte *)text);
        text[length] = '\0';
    }
    return text;
}

/* The same of an array of arrays, with NULL at its end. */
static char **copies(JNIEnv *env, jobjectArray texts) {
    jsize count = (*env)->GetArrayLength(env, texts);
    char **all = calloc((size_t)count + 1, sizeof *all);
    for (jsize i = 0; all && i < count; i++) {
        jbyteArray bytes = (*env)->GetObjectArrayElement(env, texts, i);
        all[i] = copy(env, bytes);
        (*env)->DeleteLocalRef(env, bytes);
    }
    return all;
}

NATIVE(jint, changeDirectory)(JNIEnv *env, jclass self, jbyteArray path) {
    char *text = copy(env, path);
    int failed = text && chdir(text) == 0 ? 0 : errno;
    free(text);
    return failed;
}

NATIVE(jbyteArray, currentDirectory)(JNIEnv *env, jclass self) {
    char *path = getcwd(NULL, 0);
    jsize length = path ? (jsize)strlen(path) : 0;
    jbyteArray bytes = path ? (*env)->NewByteArray(env, length) : NULL;
    if (bytes)
        (*env)->SetByteArrayRegion(env, bytes, 0, length, (jbyte *)path);
    free(path);
    return bytes;
}

NATIVE(jstring, describe)(JNIEnv *env, jclass self, jint number) {
    return (*env)->NewStringUTF(env, strerror(number));
}

NATIVE(void, setEnvironment)(JNIEnv *env, jclass self, jobjectArray variables) {
    char **all = copies(env, variables);
    if (!all)
        return;
    clearenv();
    for (char **at = all; at[0] && at[1]; at += 2) {
        setenv(at[0], at[1], 1); /* it copies */
        free(at[0]);
        free(at[1]);
    }
    free(all);
}

/* JNI asks neither for access nor whether a field is final. */
NATIVE(jboolean, setField)
(JNIEnv *env, jclass self, jclass owner, jobject object, jstring name, jstring signature, jobject value) {
    const char *field = (*env)->GetStringUTFChars(env, name, NULL);
    const char *type = (*env)->GetStringUTFChars(env, signature, NULL);
    jfieldID id = field && type ? (*env)->GetFieldID(env, owner, field, type) : NULL;
    (*env)->ExceptionClear(env);
    if (id)
        (*env)->SetObjectField(env, object, id, value);
    (*env)->ReleaseStringUTFChars(env, name, field);
    (*env)->ReleaseStringUTFChars(env, signature, type);
    return id != NULL;
}

NATIVE(jobject, getStatic)(JNIEnv *env, jclass self, jclass owner, jstring name, jstring signature) {
    const char *field = (*env)->GetStringUTFChars(env, name, NULL);
    const char *type = (*env)->GetStringUTFChars(env, signature, NULL);
    jfieldID id = field && type ? (*env)->GetStaticFieldID(env, owner, field, type) : NULL;
    (*env)->ExceptionClear(env);
    jobject value = id ? (*env)->GetStaticObjectField(env, owner, id) : NULL;
    (*env)->ReleaseStringUTFChars(env, name, field);
    (*env)->ReleaseStringUTFChars(env, signature, type);
    return value;
}

/* The way of debuggers: Thread.stop() does nothing since Java 20. */
NATIVE(jint, stop)(JNIEnv *env, jclass self, jthread thread, jthrowable death) {
    static jvmtiEnv *tools; /* only one thread at a time interrupts a run */
    jvmtiCapabilities wanted = {.can_signal_thread = 1};
    JavaVM *machine;
    if (!tools) {
        jvmtiError error = (*env)->GetJavaVM(env, &machine) == JNI_OK &&
                                   (*machine)->GetEnv(machine, (void **)&tools, JVMTI_VERSION_1_2) == JNI_OK
                               ? (*tools)->AddCapabilities(tools, &wanted)
                               : JVMTI_ERROR_NOT_AVAILABLE;
        if (error != JVMTI_ERROR_NONE)
            return (jint)error;
    }
    return (jint)(*tools)->StopThread(tools, thread, death);
}

NATIVE(void, execute)(JNIEnv *env, jclass self, jobjectArray argv, jint kept) {
    char **all = copies(env, argv);
    sigset_t none;
    if (!all || !all[0] || fcntl(kept, F_SETFD, 0) != 0)
        return;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL); /* the mask of a JVM's thread would be the new program's */
    execv(all[0], all);
    fcntl(kept, F_SETFD, FD_CLOEXEC);
}
